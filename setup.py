"""What pyproject.toml cannot say: beside the packages that are found, configs/ is mtp.configs."""
from setuptools import find_packages, setup

setup(packages=[*find_packages(include=['mtp*']), 'mtp.configs'],
      package_dir={'mtp.configs': 'configs'},
      package_data={'mtp.configs': ['**/*.py', '**/*.yaml']})
