"""What `--help` shows below the options: how each command is used."""

from __future__ import annotations

OVERVIEW = """\
a first run:
  predecode plan data/pusht out/pusht --policy diffusion          how many windows, bytes and minutes it takes
  predecode materialize data/pusht out/pusht --policy diffusion   write the windows of Diffusion Policy
  predecode inspect out/pusht                                     what came out
  predecode preview out/pusht                                     look at some windows
  predecode verify out/pusht                                      after a copy: is all of it there?

`predecode COMMAND --help` explains each. Training code reads the output with `predecode.reader`."""

MATERIALIZE = """\
examples:
  the windows of a policy that lerobot knows, or of its config.json:
    predecode materialize data/aloha out/act --policy act
    predecode materialize data/aloha out/mine --policy outputs/train/checkpoints/last/pretrained_model
  windows of your own: one frame now and one before, four actions ahead; in frames, or in seconds from a file:
    predecode materialize data/pusht out/pusht --delta-indices '{"observation.image": [-1, 0], "action": [0, 1, 2, 3]}'
    predecode materialize data/aloha out/aloha-224 --image-size 224 --delta-timestamps windows.json
  lossless frames, on eight threads:
    predecode materialize data/aloha out/aloha --image-codec png --direct_num_workers=8
  a Zarr replay buffer:
    predecode materialize pusht_cchi_v7_replay.zarr out/pusht --fps 10 --rename img=observation.image \\
        --rename state=observation.state --delta-indices '{"observation.image": [-1, 0], "action": [-1, 0, 1, 2]}'

Without any windows every sample is one frame. Beam's own options, such as --runner, are taken too. Ctrl-C stops
the job; run the same command again to go on. docs/troubleshooting.md explains the messages."""

PLAN = """\
examples:
  predecode plan data/aloha out/act --policy act --image-size 224     the same arguments as of the job
  predecode plan data/aloha --json | python -m json.tool"""

INSPECT = """\
examples:
  predecode inspect out/pusht
  predecode inspect s3://bucket/pusht --storage-options '{"anon": true}'
  predecode inspect out/pusht --json | python -m json.tool"""

PREVIEW = """\
examples:
  predecode preview out/pusht                          both ends of an episode and some others, to pusht-preview.png
  predecode preview out/pusht windows.png --windows 12
  predecode preview out/pusht --episode 3              some windows of episode 3
  predecode preview out/pusht --episode 3 --frames 40:60
  predecode preview out/pusht --index 123              what WindowDataset("out/pusht")[123] shows

Padded slots are marked. --frames are the anchors' frame numbers, half-open."""

REPORT = """\
examples:
  predecode report out/pusht pusht.html
  predecode report out/pusht pusht.html --source data/pusht           the worst frames beside their originals"""

VERIFY = """\
examples:
  predecode verify out/pusht
  predecode verify out/pusht --source data/pusht                      every window against the dataset, too
  predecode verify s3://bucket/pusht --threads 32
  predecode verify out/pusht --repair                                 what is damaged is prepared to be written anew,
  predecode materialize data/pusht out/pusht --policy diffusion       by the same command as before"""
