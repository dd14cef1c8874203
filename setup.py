"""The folders at the top level are the sub-packages of `predecode`."""

from setuptools import find_packages, setup

FOLDERS = ("pipeline", "reader", "transforms")

setup(
    packages=[f"predecode.{name}" for folder in FOLDERS for name in find_packages(include=(folder, f"{folder}.*"))],
    package_dir={f"predecode.{folder}": folder for folder in FOLDERS},
    package_data={"": ["py.typed"]},
)
