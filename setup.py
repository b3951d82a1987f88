"Reads everything from settings.ini"
from configparser import ConfigParser
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
words = lambda key: cfg.get(key, '').split()

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], license='Apache-2.0',
    python_requires=f">={cfg['min_python']}", packages=find_packages(include=[f"{cfg['lib_path']}*"]),
    install_requires=words('requirements'), extras_require=dict(dev=words('dev_requirements') + words('pdf_requirements') + words('cluster_requirements'), **{k: words(f'{k}_requirements') for k in ('pdf', 'cluster', 'gpu')}),
    entry_points=dict(console_scripts=words('console_scripts'), nbdev=[f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]),
)
