"""Run by lerobot's interpreter: what users see of lerobot's streaming class, as JSON.

python -m tests.training.describe_streaming DATASET
"""

from __future__ import annotations

import inspect
import json
import sys

from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset


def main(root: str) -> None:
    """Prints its parameters and its public attributes, those of an object included."""
    parameters = inspect.signature(StreamingLeRobotDataset).parameters.values()
    dataset = StreamingLeRobotDataset("some/name", root=root)
    described = {
        "parameters": [
            [each.name, each.kind.name, None if each.default is inspect.Parameter.empty else repr(each.default)]
            for each in parameters
        ],
        "attributes": sorted(name for name in dir(dataset) if not name.startswith("_")),
    }
    sys.stdout.write(json.dumps(described) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
