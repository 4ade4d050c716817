"""The frozen settings of each stage: one validated object a stage, whose digest goes into the ledger.

Plain data: importing this needs neither Spark nor torch, so that executors, readers and tests share it.
`jobs.config.profile` builds these from YAML; the reason for each default is the comment or docstring beside it.
"""

import hashlib
import ipaddress
import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.counts import Counted


class Settings(BaseModel):
    """Base of all settings: unknown keys refused, instances immutable, digest stable across processes."""

    # JSON has neither infinity nor NaN: as null, two settings that differ would have one digest.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    operational: ClassVar[frozenset[str]] = frozenset()
    """Settings that say where things lie, how fast the work is done or how patiently, and not what comes out of it. A
    setting that is not named here counts as deciding contents."""

    @model_validator(mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, given: Any) -> Any:
        """YAML reads `off` as false, which Python takes for 0: a limit of nothing where none at all was meant."""
        wrong = [
            InitErrorDetails(type=_NO_NUMBER, loc=(name,), input=value)
            for name, value in (given.items() if isinstance(given, dict) else ())
            if name in cls.model_fields and _has_flag(value) and _is_number(cls.model_fields[name].annotation)
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return given

    def digest(self) -> str:
        """SHA-256 hex of the canonical JSON of these settings (sorted keys, no white space)."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def decisive(self) -> dict[str, Any]:
        """What is left of these settings, and of those within, without the `operational` ones; JSON types only."""
        plain = self.model_dump(mode="json", exclude=set(self.operational))
        return {name: _decisive(getattr(self, name), dumped) for name, dumped in plain.items()}


def _decisive(value: Any, dumped: Any) -> Any:
    """`dumped`, the JSON of `value`, less the operational settings of the groups in it."""
    if isinstance(value, Settings):
        return value.decisive()
    if isinstance(value, tuple):
        return [_decisive(member, json_value) for member, json_value in zip(value, dumped, strict=True)]
    return dumped


_NO_NUMBER = PydanticCustomError(
    "flag_for_number", "expected a number, not a flag (in YAML yes, no, on, off are flags)"
)


def _has_flag(value: Any) -> bool:
    return any(isinstance(one, bool) for one in (value if isinstance(value, list | tuple) else [value]))


def _is_number(annotation: Any) -> bool:
    """Whether a type, or a part of it, is a number; no setting may be either a number or a flag."""
    return annotation in {int, float} or any(map(_is_number, get_args(annotation)))


class AssetSettings(Settings):
    """A file that the driver ships to executors; each executor checks its digest before it loads it."""

    operational: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str
    """A file, or file:///..., s3a://bucket/..., hf-hub:ORG/REPO/FILE, timm:NAME; what lies elsewhere is fetched once,
    by the driver."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file, in hex: another file is refused."""


Deviation = Annotated[float, Field(gt=0)]
"""Pixels are divided by it."""
Side = Annotated[int, Field(ge=1)]
"""In pixels."""

_NOBODY = re.compile(r"(?i)\bexample\.(com|net|org|edu)\b|\.(example|invalid|test)\b")
"""Names that are reserved for examples (RFC 2606, RFC 6761): whoever gives one as a contact cannot be reached."""


class CrawlSettings(Settings):
    """How the fetcher behaves. Times in seconds, sizes in bytes, rates in requests per second."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "per_host_concurrency",
            "per_host_rate",
            "concurrency",
            "max_pending_bytes",
            "connect_timeout_s",
            "request_timeout_s",
            "row_deadline_s",
            "deadline_s",
            "drain_deadline_s",
            "min_bytes_per_s",
            "min_rate_window_s",
            "retries",
            "backoff_s",
            "max_backoff_s",
            "obey_crawl_delay",
            "circuit_breaker_failures",
            "max_host_pause_s",
            "share_limits_by_address",
            "dns_cache_s",
            "lookahead_rows",
        }
    )

    user_agent: str = Field(default="lensfeed/0.1 (+https://example.org/bot)", min_length=3)
    """How we introduce ourselves: a product token, by which robots.txt addresses us, a version, and a way to reach you.
    One that names example.org or the like is refused, unless nothing but `allowed_networks` would be asked."""
    per_host_concurrency: int = Field(default=4, ge=1)
    """Connections to one host at once, of all tasks of a machine together."""
    per_host_rate: float | None = Field(default=None, gt=0)
    """Most requests per second to one host; null for no limit but the concurrency."""
    concurrency: int = Field(default=64, ge=1)
    """Requests under way at once in one task."""
    max_pending_bytes: int = Field(default=256 * 2**20, ge=2**20)
    """Fetched bytes that one task may hold before Spark has taken them: bounds memory whatever the manifest's size."""
    connect_timeout_s: float = Field(default=10, gt=0)
    """Connecting, TLS included."""
    request_timeout_s: float = Field(default=30, gt=0)
    """One exchange, from connecting to the last byte."""
    row_deadline_s: float = Field(default=90, gt=0)
    """Everything for one row: redirects, retries and back-off included."""
    deadline_s: float | None = Field(default=None, gt=0)
    """The crawl of one date; what is left then is `deferred`."""
    drain_deadline_s: float | None = Field(default=None, gt=0)
    """Asking again, before a night's own date, for what earlier nights are owed. It is a time of its own, so that a
    backlog of slow hosts takes none of the date's; null for as long as `deadline_s`."""
    min_bytes_per_s: int = Field(default=512, ge=0)
    """Slower than this over `min_rate_window_s` is given up as a `timeout` (slow-loris)."""
    min_rate_window_s: float = Field(default=10, gt=0)
    """Over which the rate of `min_bytes_per_s` is taken."""
    max_bytes: int = Field(default=20 * 2**20, ge=1)
    """Longer bodies are `too_large`."""
    max_pixels: int = Field(default=64_000_000, ge=1)
    """Width times height; larger images are a `bomb`, and never decoded."""
    max_frames: int = Field(default=500, ge=1)
    """Animations with more frames are a `bomb`."""
    max_redirects: int = Field(default=5, ge=0)
    """Hops that one row may be led; beyond, `too_many_redirects`."""
    retries: int = Field(default=3, ge=0)
    """Further tries after one that failed for now."""
    backoff_s: float = Field(default=0.5, gt=0)
    """First back-off; doubles with every try, with full jitter."""
    max_backoff_s: float = Field(default=20, gt=0)
    """No back-off is longer."""
    obey_robots: bool = True
    """Whether robots.txt is asked for and kept to; false is for servers of your own."""
    obey_crawl_delay: bool = True
    """Whether a host's Crawl-delay is kept to."""
    opt_out_tokens: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex", "noml")
    """What in X-Robots-Tag, addressed to all or to us, makes an image an `opt_out`."""
    obey_tdm_reservation: bool = True
    """Whether a TDM-Reservation header of 1 makes an image an `opt_out`."""
    allowed_networks: tuple[str, ...] = ()
    """CIDR networks that may be fetched from although they are not globally routable, for tests and intranets."""
    circuit_breaker_failures: int = Field(default=10, ge=1)
    """Consecutive connection-level failures after which a host is left alone for the rest of the task; where its name
    server is what fails, for `dns_cache_s`."""
    max_host_pause_s: float = Field(default=60, ge=0)
    """A host that asks for a longer pause (Retry-After, Crawl-delay) has the rest of its rows `deferred`."""
    share_limits_by_address: bool = False
    """Whether hosts that resolve to the same first address share one limit (shared hosting, CDNs)."""
    dns_cache_s: float = Field(default=300, ge=0)
    """For this long a name's addresses are taken as known."""
    lookahead_rows: int = Field(default=2048, ge=1)
    """Rows that one task may have read ahead, so that rows of a busy host do not keep other hosts waiting."""

    @property
    def names_nobody(self) -> bool:
        """Whether the user agent is a placeholder, by which no site's owner can reach us."""
        return bool(_NOBODY.search(self.user_agent))

    @property
    def agent_token(self) -> str:
        """The product token of the user agent, lower-case: what robots.txt and X-Robots-Tag address us by."""
        return re.split(r"[/\s]", self.user_agent, maxsplit=1)[0].lower()

    @field_validator("user_agent")
    @classmethod
    def _agent_is_a_product(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(/[!-~]+)?( [ -~]*)?", value):
            raise ValueError(
                f"expected a product token, a version and a contact, as in 'name/1.0 (+URL)', not {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        if self.max_pending_bytes < 2 * self.max_bytes:
            raise ValueError(
                f"max_pending_bytes must be twice max_bytes or more, {2 * self.max_bytes}, not {self.max_pending_bytes}"
            )
        return self

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value


class DetectorSettings(Settings):
    """A detector beside open_nsfw: a timm classifier, or any ONNX file that takes one image and gives one number a
    label. It runs on the CPU, image by image; its scores are probabilities, named `<name>.<label>:<view>`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    """By which rules and scores call it."""
    kind: Literal["onnx", "timm"]
    """`onnx`: any ONNX file; `timm`: a classifier of timm's."""
    weights: AssetSettings
    """The ONNX file; or the timm model's tensors (safetensors, or what torch loads as tensors alone)."""
    model: str | None = None
    """The architecture, for `timm` only: `vit_tiny_patch16_384`."""
    labels: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")], ...] = Field(min_length=1)
    """One for each output of the model, in their order."""
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """What makes outputs probabilities: `softmax` of exclusive labels, `sigmoid` of independent ones, `none` where the
    file does so itself."""
    input_size: tuple[Side, Side]
    """Height and width in pixels; the whole view is squashed into it, bilinear."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Of red, green and blue in [0, 1]."""
    std: tuple[Deviation, Deviation, Deviation] = (0.5, 0.5, 0.5)
    """Of red, green and blue in [0, 1]."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.name == "nsfw":
            raise ValueError("name: nsfw is open_nsfw's own name; take another")
        if (self.model is not None) != (self.kind == "timm"):
            raise ValueError(f"model: expected for kind timm, and for no other; kind is {self.kind}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must differ, found {list(self.labels)}")
        return self


class GateSettings(Settings):
    """The policy file, the detectors that it relies on, and where in an image they look."""

    operational: ClassVar[frozenset[str]] = frozenset({"file", "batch_size", "timeout_s"})
    """What the file says is digested by itself (`Policy.version`)."""

    file: str
    """The policy: conf/policy.yaml says what may stand in it."""
    detector: AssetSettings
    """open_nsfw as ONNX."""
    batch_size: int = Field(default=16, ge=1)
    """Images that a Python worker takes at once."""
    timeout_s: float = Field(default=60, gt=0)
    """For decoding and scoring one image in all its views; beyond it, the image fails as `gate_error`."""
    views: tuple[Literal["center", "plain", "squash", "corners", "tiles", "trimmed", "turned"], ...] = (
        "center",
        "plain",
    )
    """Parts of each frame and rendering, of which the worst decides. `center`, always: opennsfw2's own crop, which does
    not see the outer 23 % of the area. `plain`: the bare pixels too, where colour profile, transparency or orientation
    make them differ. `squash`: all of it. `corners`: the four crops as large as the centre's. `tiles`: four of
    5/8 of each side, for small things. `trimmed`: without a border of one colour. `turned`: by 90, 180, 270 degrees.
    docs/decisions/0010-gate-views.md argues them and says what each costs."""
    frames: Literal["first", "first_middle_last"] = "first"
    """Of an animation; only the first is ever stored, but a link leads people to all of them."""
    matte: Literal["white", "white_and_black"] = "white"
    """What transparent images are seen on; they are stored on white."""
    hashes: tuple[Literal["phash256", "pdq"], ...] = ()
    """Perceptual hashes kept of each content for the policy's lists, in the eight orientations."""
    detectors: tuple[DetectorSettings, ...] = ()
    """Beside open_nsfw."""

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        named = {"views": self.views, "hashes": self.hashes, "detectors": [one.name for one in self.detectors]}
        for name, values in named.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must differ, found {list(values)}")
        if "center" not in self.views:
            raise ValueError(f"views: center must be among them, found {list(self.views)}")
        return self


class ImageSettings(Settings):
    """How bytes become the canonical image: sRGB, upright, metadata-free JPEG."""

    max_side: int = Field(default=512, ge=32, le=4096)
    """Longest side in pixels; smaller images are never enlarged."""
    jpeg_quality: int = Field(default=90, ge=50, le=100)
    """Of the canonical image, as libjpeg counts it."""
    min_side: int = Field(default=32, ge=1)
    """Images with a side shorter than this are `too_small`, as fetched or as stored: with `max_side` it also bounds how
    long and narrow an image may be, 16 to 1 by default."""

    @model_validator(mode="after")
    def _something_fits(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError(
                f"min_side must be at most max_side, {self.max_side}, not {self.min_side}: every image as stored would "
                "be too small"
            )
        return self


class ExecutorSettings(Settings):
    """The executors that embed on GPUs, one GPU each, where Spark may start some for the stage (dynamic allocation)."""

    cores: int = Field(default=4, ge=1)
    """Of one executor: as many as fill its GPU, `1 / gpus_per_task` tasks of `cores_per_task`."""
    memory: str = Field(default="8g", pattern=r"^[1-9][0-9]*[kmgt]$")
    """Heap of the executor's JVM, which passes rows on; the model is in the Python workers, outside it."""
    memory_overhead: str = Field(default="8g", pattern=r"^[1-9][0-9]*[kmgt]$")
    """For those Python workers: weights, CUDA's libraries and pinned batches, some 4 GiB each."""
    discovery_script: str = ""
    """On the executor's machine, for YARN and Kubernetes; standalone workers have found their GPUs before."""
    vendor: str = ""
    """What Kubernetes asks for: `nvidia.com`."""


class EmbeddingSettings(Settings):
    """The visual tower: any timm model, and how an image becomes its input.

    What is null or `auto` is taken from timm's configuration of the model. Stated values win; with all of them stated
    the model version is known without importing timm, and no upgrade of timm can change it unnoticed.
    """

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "licence",
            "batch_size",
            "max_batch_bytes",
            "cpu_batch_size",
            "device",
            "gpus_per_task",
            "cores_per_task",
            "executor",
            "threads",
            "decode_threads",
            "compile",
        }
    )

    model: str = "tf_efficientnet_lite0"
    """A timm architecture, with its tag where it has one: `vit_base_patch16_clip_quickgelu_224.openai`."""
    weights: AssetSettings
    """Of the model: safetensors, or what torch loads as tensors alone."""
    licence: str
    """Of the weights, for people: nothing is decided by it."""
    batch_size: int = Field(default=32, ge=1)
    """Images decoded together and, on a GPU, inferred at once; shrinks by itself when GPU memory runs out."""
    max_batch_bytes: int = Field(default=32 * 2**20, ge=1)
    """JPEG bytes that are decoded together at most, one image at least: what a task holds, whatever the images."""
    cpu_batch_size: int = Field(default=4, ge=1)
    """Images inferred at once on a CPU: a batch beyond the caches' size is slower, and the last one is padded."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one; `cuda` fails a task without one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which the model computes; vectors are stored as float32."""
    gpus_per_task: float = Field(default=0, ge=0, le=1)
    """On a cluster: 0 embeds on whatever executors there are; 1 or a fraction up to 1/2 has the stage run on executors
    with a GPU, of which several tasks may share one: each decodes for itself, so sharing feeds a GPU faster."""
    cores_per_task: int = Field(default=1, ge=1)
    """Cores that such a task takes: for its `decode_threads`; its own thread mostly waits."""
    executor: ExecutorSettings = ExecutorSettings()
    """What executors with a GPU are asked for, where `gpus_per_task` is not 0."""
    threads: int = Field(default=1, ge=1)
    """Inference threads on a CPU; Spark already runs one task a core."""
    decode_threads: int = Field(default=0, ge=0)
    """Threads that decode ahead of a GPU; 0 decodes in the task's own thread, right for a CPU."""
    compile: bool = False
    """Have torch.compile fuse the model's kernels on a GPU: a minute or more in every process, then faster batches."""
    head: Literal["auto", "features", "projection"] = "auto"
    """`projection` keeps CLIP's projection into the space of its text tower; `auto` does so for CLIP weights."""
    pooling: Literal["auto", "model", "token", "avg"] = "auto"
    """`auto`: as the model's authors pool it; `model`: timm's default."""
    dimension: int | None = Field(default=None, ge=1)
    """Length of the vectors. Stated, it is held against the model's own."""
    input_size: tuple[Side, Side] | None = None
    """Height and width in pixels."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """By which images are resized."""
    mean: tuple[float, float, float] | None = None
    """Of red, green and blue in [0, 1]."""
    std: tuple[Deviation, Deviation, Deviation] | None = None
    """Of red, green and blue in [0, 1]."""
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    """Side of the crop over the shorter side of the resized image."""
    crop_mode: Literal["center", "squash", "border"] | None = None
    """`center`: the middle; `squash`: the whole image, whatever its shape; `border`: the whole image, padded."""
    fit: Literal["model", "pad"] = "model"
    """`model`: the model's own resize and crop; `pad`: whole image, padded to its input on white (cut-outs)."""
    shares_text_space: bool = False
    """Whether the text tower's vectors lie in the same space (a CLIP's two towers): then their cosine says how well a
    text fits its image, and the feed carries it. Not part of the model's version, as `alignment`."""
    alignment: AssetSettings | None = None
    """What `jobs.fit_alignment` stored for this model and the text tower: the feed then carries that cosine for models
    that share no space, and for all of them what calibrates it. Stated beside `shares_text_space`, it decides."""

    @model_validator(mode="after")
    def _gpus_are_filled(self) -> Self:
        share = self.gpus_per_task
        if 0.5 < share < 1:
            raise ValueError(f"gpus_per_task must be 0, 1 or at most 0.5 (Spark shares a GPU evenly), not {share}")
        needed = int(1 / share) * self.cores_per_task if share else 0
        if needed > self.executor.cores:
            raise ValueError(
                f"executor.cores: a GPU is filled by {int(1 / share)} tasks of {self.cores_per_task} cores, which need "
                f"{needed}, not {self.executor.cores}"
            )
        return self


class TextSettings(Settings):
    """The text tower: a sentence-transformers folder, packed as one zip file; or the text side of a CLIP."""

    operational: ClassVar[frozenset[str]] = frozenset({"licence", "batch_size", "device", "threads"})

    model: str = "all-MiniLM-L6-v2"
    """`open_clip:ViT-B-32-quickgelu` takes that text tower of open_clip's, which shares a space with the visual one of
    the same checkpoint; any other name is that of the sentence-transformers folder."""
    weights: AssetSettings
    """The zip file; for `open_clip:` the checkpoint of the whole CLIP (safetensors, or tensors alone)."""
    tokenizer: AssetSettings | None = None
    """Zip file of the tokenizer's folder (tokenizer.json, tokenizer_config.json), for the models of open_clip that do
    not use its own: SigLIP's."""
    licence: str
    """Of the weights, for people: nothing is decided by it."""
    batch_size: int = Field(default=16, ge=1)
    """Texts inferred at once; texts of like length go together, and the last batch of each length is padded."""
    max_tokens: int = Field(default=128, ge=8)
    """Tokens beyond this are not read; the model's own limit applies too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one; `cuda` fails a task without one."""
    threads: int = Field(default=1, ge=1)
    """Inference threads on a CPU; Spark already runs one task a core."""


HashedView = Literal["whole", "trimmed", "object", "inner2", "inner5", "inner10"]
HASHED_VIEWS: tuple[HashedView, ...] = get_args(HashedView)
"""Views of an image that are hashed; see `DedupSettings.views`. Stored hashes begin with the place in this list."""
FULL_VIEWS: tuple[HashedView, ...] = HASHED_VIEWS[:3]
"""Views with all that an image shows: one of two hashes that are compared is of one of these. What is left of two
images when both are cut may be alike where the images are not."""
MOST_SHADES = 8
"""Shades of a view that are counted, of 32: one that shows more has so many. A screen full of text has 2 to 5, most
photographs have more than 8."""


class Expectation(Settings):
    """A bound on what a night counts or measures, as the ledger has it: `sightings`, `outcome.blocked`,
    `failed.timeout`, `blocked.nsfw`, `changed.clusters`, `vectors.mean_cosine`, ...; `vectors.neighbour_overlap` of a
    switch of models. A name that none has is refused."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """What the message and `--accept-breach` call it."""
    counts: tuple[Counted, ...] = Field(min_length=1)
    """The counts that are added up."""
    of: tuple[Counted, ...] = ()
    """What they are a share of, added up too; nothing for the number itself."""
    against: Literal["itself", "earlier"] = "itself"
    """`earlier`: the bounds are multiples of the median of the last nights, from the third on."""
    at_least: float | None = Field(default=None, ge=0)
    """The smallest value that is expected."""
    at_most: float | None = Field(default=None, ge=0)
    """The largest value that is expected."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"expectation {self.name}: expected at_least, at_most or both, found neither")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"expectation {self.name}: at_least {self.at_least:g} is more than at_most {self.at_most:g}: no value "
                "is as expected"
            )
        return self


class DedupSettings(Settings):
    """Near-duplicate rule: part of `rule_version`, so that verdicts of two settings never mix."""

    operational: ClassVar[frozenset[str]] = frozenset({"target_recall"})

    views: tuple[HashedView, ...] = HASHED_VIEWS
    """What of an image is hashed and compared. With all that it shows: `whole`, always; `trimmed`, without a border of
    one colour and without strips of writing at the top and at the bottom; `object`, without a ground of one colour
    around what stands out of it. Most images have no border and no such ground, and then these cost nothing. Cut:
    `inner2`, `inner5`, `inner10`, without 2.5, 5 and 10 % on each side, of what is left trimmed, which finds crops and
    what was turned a little. Of two hashes that are compared, one is of the first three. docs/decisions/0018-views.md
    says what each finds."""

    max_hamming: int = Field(default=6, ge=0, le=32)
    """Largest Hamming distance between 64-bit pHashes that may be an edge; distances are even, since half of a pHash's
    bits are set. Looking at more of each image finds more than another two bits do, and small distances are what
    bands are good at: docs/decisions/0018-views.md."""
    max_hamming256: int = Field(default=64, ge=0, le=128)
    """Largest Hamming distance between 256-bit pHashes that may be an edge: 64 bits alone do not identify at 1e9. In
    the same measurement unrelated crops were 82 apart or more."""
    max_hue_apart: int = Field(default=50, ge=0, le=180)
    """Degrees by which the mean colours of two views may differ, where both have one, and be an edge: one shape in two
    colours is two products. A grey copy has none, and is near them all; what is tinted as a whole (sepia) is near all
    but what is tinted otherwise. 180: colours do not matter."""
    outer_bits: int = Field(default=2, ge=0, le=32)
    """By how many bits beyond `max_hamming` two 64-bit pHashes may be apart, and be an edge, where more than the hashes
    speaks for it: both views show `outer_shades`, and their hues are within `outer_hue_apart`. Bands find fewer of
    these pairs, 88 % of those 8 bits apart. 0: there is no such edge."""
    outer_shades: int = Field(default=6, ge=0, le=MOST_SHADES)
    """Shades that both views show, beyond `max_hamming`: what is drawn or written in few of them differs from another
    in little, as two screens of one application do."""
    outer_hue_apart: int = Field(default=20, ge=0, le=180)
    """In place of `max_hue_apart` where that is more, beyond `max_hamming`."""
    bands: int = Field(default=42, ge=1)
    """Of the 64-bit pHash's MinHash signature; two hashes are compared where all `rows` of one band are equal."""
    rows: int = Field(default=12, ge=1)
    """42 x 12 finds 99.0 % of the pairs at Hamming distance 6, and 0.043 % of unrelated hashes have to be compared."""
    target_recall: float = Field(default=0.99, gt=0, lt=1)
    """Refused at start-up when bands x rows cannot reach it at `max_hamming`; `outer_bits` are not looked at."""
    seed: int = 1
    """Of MinHash's permutations."""
    flat_below: float = Field(default=3.0, ge=0)
    """Images whose luminance deviates less (grey levels, 0-255) have no meaningful pHash: exact match only."""

    @model_validator(mode="after")
    def _whole_takes_part(self) -> Self:
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"views must differ, found {list(self.views)}")
        if "whole" not in self.views:
            raise ValueError(f"views: whole must be among them, found {list(self.views)}")
        return self

    @property
    def outer_hamming(self) -> int:
        """Largest Hamming distance between 64-bit pHashes that may be an edge at all."""
        return self.max_hamming + self.outer_bits
