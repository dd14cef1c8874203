"""A program for tests: translates the job for an engine without running it.

Usage: translate.py SOURCE OUTPUT FLAG...

Prints JSON: the graph as a protocol buffer in base64, and the engine's options as it would get them.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from predecode.pipeline.job import build_pipeline
from predecode.pipeline.runner import pipeline_options
from predecode.transforms.options import MaterializeOptions

if __name__ == "__main__":
    settings = pipeline_options(sys.argv[3:])
    options = MaterializeOptions(source=sys.argv[1], output=sys.argv[2])
    result: Any = build_pipeline(options, settings, job_id="0" * 32).run()
    graph = base64.b64encode(result.job.proto_pipeline.SerializeToString()).decode()
    content = {"graph": graph, "options": settings.get_all_options(drop_default=True)}
    sys.stdout.write(json.dumps(content, default=str))
