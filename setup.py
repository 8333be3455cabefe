"""Which packages a wheel holds: every folder of kdsearch, and plugins/ as kdsearch_plugins.

Here and not in pyproject.toml, which can find packages or give one another folder's name, but not both.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["kdsearch", "kdsearch.*"]), "kdsearch_plugins"])
