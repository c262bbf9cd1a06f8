"""Selection's sections of the configuration. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from selection.errors import nearest_name


class EmbedConfig(BaseModel, extra="forbid", frozen=True):
    """The sentence embedder behind near-duplicates, holdout leakage and clusters."""

    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="Directory or repository id of a sentence-transformers model. Code that comes with a model never runs.",
    )
    revision: str | None = Field(
        None, description="Commit, tag or branch on the hub; pin a commit to make runs repeatable."
    )
    text: Literal["conversation", "prompt"] = Field(
        "conversation",
        description="What is embedded: all messages, or all but the response. prompt groups by task, whatever the answer.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="auto: bfloat16 where the device computes it natively (cosine to float32 about 0.99999), else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes the GPU when there is one.")
    batch_tokens: int = Field(
        8192,
        ge=1,
        description="Tokens of one batch, padding included. More is faster on a GPU and needs memory in proportion.",
    )


class DedupConfig(BaseModel, extra="forbid", frozen=True):
    """Near-duplicates: of each group only the representative can be picked."""

    threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Cosine at which an example counts as a near-duplicate of its representative. Lower removes paraphrases too.",
    )
    neighbours: int = Field(
        16,
        ge=1,
        description="Above 50,000 examples: neighbouring cells of the index that are searched for each example. "
        "More finds more near-duplicates and costs time in proportion; below, the search is exact.",
    )


HoldoutSize = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]


class HoldoutConfig(BaseModel, extra="forbid", frozen=True):
    """Examples kept out of the pool to measure on. Their near-duplicates leave the pool as well."""

    dev: HoldoutSize = Field(
        500,
        description="Examples watched while developing: a count, or a share (0.05) of the distinct trainable examples.",
    )
    test: HoldoutSize = Field(
        1000,
        description="Examples only read to report: a count or a share. More narrows every interval, by 1/sqrt(count).",
    )
    dev_files: list[str] = Field(
        default=[],
        description="Files whose examples are dev, instead of drawing it; read as pool.files are, and never picked from.",
    )
    test_files: list[str] = Field(
        default=[],
        description="Files whose examples are test, instead of drawing it; read as pool.files are, never picked.",
    )
    overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Pool examples that share more than this part of their 13-word runs with a held-out one leave the pool: the same "
        "text in another template. 1 looks for none.",
    )


class ClusterConfig(BaseModel, extra="forbid", frozen=True):
    """Cells by k-means over the embeddings (faiss), joined to clusters, which are what quotas are given to."""

    k: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Clusters. auto: the square root of the number of examples, at most 4,096: 31 for 1,000, 245 for 60,000. "
        "More separate tasks better and leave fewer measured examples to each.",
    )
    cells: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="k-means cells that are joined to k clusters, each counting once, so that a huge task does not take most of "
        "the clusters. auto: 12 for each cluster, at least 4 examples each on average, at most 8,192. Equal to k: plain k-means.",
    )
    iterations: int = Field(
        20, ge=1, description="Lloyd iterations; time grows in proportion, 20 come within 1% of convergence."
    )
    sample_per_centroid: int = Field(
        64,
        ge=1,
        description="Examples per cell that the centroids are trained on, drawn at random; all are assigned. "
        "faiss takes 256 silently; here it is stated.",
    )
    linkage: Literal["auto", "average", "ward"] = Field(
        "auto",
        description="How cells are joined: average follows the tasks of a pool of templates more closely, ward makes clusters of more "
        "even spread where there are none. auto tries both and keeps the clusters of the higher silhouette.",
    )
    adapt: bool = Field(
        True,
        description="Whether later rounds split clusters whose measured losses are uneven and join like ones (docs/selection.md).",
    )
    restarts: int = Field(1, ge=1, description="Independent starts, of which the one with the least inertia is kept.")
    spherical: bool = Field(
        True,
        description="Centroids scaled to unit length (cosine k-means), so that diffuse clusters do not attract more.",
    )


class KindsConfig(BaseModel, extra="forbid", frozen=True):
    """Kinds of example by the wording of prompts, which the default strategy and strategies kind_* spread the budget over."""

    k: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Kinds. auto: as many as kinds.apart leaves. More separate tasks better, and cut large tasks into pieces.",
    )
    apart: float = Field(
        0.45,
        gt=0,
        lt=1.5,
        description="How far apart kinds are at least: 0 is the same wording, 1.41 nothing in common. Less makes more kinds.",
    )
    longest_run: int = Field(3, ge=1, le=5, description="Words and signs of the longest run that describes a prompt.")
    least_share: float = Field(
        0.004,
        gt=0,
        lt=1,
        description="Runs in fewer than this share of the prompts are left out. Less sees smaller tasks, and topics.",
    )
    components: int = Field(
        100, ge=2, le=1000, description="Numbers that describe a prompt; time and memory grow with them."
    )


class ScoreConfig(BaseModel, extra="forbid", frozen=True):
    """What is measured with the current adapter, and which number of it an example is ranked by."""

    sample_per_cluster: Annotated[int, Field(ge=1)] | Literal["all", "auto"] = Field(
        "auto",
        description="Random examples of each cluster that are measured, or all. The error of a cluster's mean falls as "
        "1/sqrt(sample), the cost of scoring grows in proportion. auto: so many that it takes about a ninth of the time of "
        "training in this round, between 2 and 8 (of 1, nothing tells difference between clusters from chance). The default strategy "
        "measures nothing where 2 take longer than that, or where clusters are no kinds of example.",
    )
    by: str | dict[str, float] = Field(
        "nll",
        description="What pickers top and mid rank by: a score (nll, entropy, margin, least_confidence, ifd, learnability, "
        "forgetting, rds, less, length, quality; docs/selection.md), or several with weights, {nll: 1, quality: 2}, whose "
        "ranks are averaged. Quotas and the tail cut always go by NLL.",
    )
    also: list[str] = Field(
        default=[],
        description="Scores that are measured and reported besides, without ranking by them. ifd costs another forward pass, "
        "less about as much as training on what is scored.",
    )
    reference: str | None = Field(
        None, description="Directory of the adapter that the score learnability compares with."
    )
    quality: str | None = Field(
        None, description="Name of a numeric column of your files, higher = better, for the score quality."
    )
    gradient_dimension: int = Field(
        16384,
        ge=16,
        description="Numbers kept of an example's gradient (score less), 2 bytes each. The error of a cosine is "
        "1/sqrt of it.",
    )

    @field_validator("by")
    @classmethod
    def _known_scores(cls, by: str | dict[str, float]) -> str | dict[str, float]:
        from selection.scores import check

        check(by)
        return by

    @field_validator("also")
    @classmethod
    def _known_also(cls, also: list[str]) -> list[str]:
        from selection.scores import check

        for name in also:
            check(name)
        return also


class NoiseConfig(BaseModel, extra="forbid", frozen=True):
    """Examples that are held back because their prompt makes their response less likely: wrong answers, exchanged ones."""

    look: Literal["none", "measured", "picks", "auto"] = Field(
        "auto",
        description="From the second round on, what is looked at: what is measured anyway, or picks as well, before they are made, which "
        "takes about 1.4 forward passes over each. auto looks at picks where at least 5% of what was looked at is suspected, or "
        "nothing was, and at no more than all measuring may take: a ninth of the time of training.",
    )
    hold: bool = Field(True, description="Whether suspects are held back. The report lists them either way.")
    release: list[str] = Field(
        default=[], description="Ids of examples that are no suspects, whatever is measured; the report names ids."
    )


class SelectConfig(BaseModel, extra="forbid", frozen=True):
    """Which strategy picks, and changes to it. Fields that are null take the strategy's own value."""

    strategy: str = Field(
        "default", description="Named pair of allocation and picker; docs/selection.md says which when."
    )
    allocation: str | None = Field(
        None,
        description="How the budget is divided over clusters: random, uniform, size, loss, confidence, learnability, adaptive, target.",
    )
    picker: str | None = Field(None, description="Which examples inside a quota; docs/selection.md lists them.")
    by: str = Field(
        "source",
        min_length=1,
        description="Field of the examples that strategies source_* spread the budget over, and default where it is given: source (a "
        "field of that name, else the file), or any other field. Examples without it make one group.",
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Exponent on a cluster's loss or size. 0 treats clusters alike, 1 is proportional, above 1 sharpens.",
    )
    explore: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the budget that goes to random examples of the whole pool. More keeps in view what the strategy "
        "overlooks, and brings the selection nearer to random.",
    )
    learn: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Allocation adaptive: exponent on how fast a cluster's loss was seen to fall, over the mean. 0 takes no notice.",
    )
    tail_cut: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of a cluster's measured examples, highest loss first, left out as suspected noise "
        "(from 5 measured on). More removes mislabelled examples and the hardest good ones.",
    )
    length_bins: int = Field(
        4,
        ge=1,
        description="Picker top ranks inside this many length bins of a cluster, against favouring short examples.",
    )
    mid_band: float = Field(
        0.5, gt=0, le=1, description="Picker mid draws from this share of a cluster's scores, centred on the median."
    )
    rising: bool | None = Field(
        None,
        description="Picker mid draws from higher scores in each round: centred on 1 - 1 / (round + 1) of a cluster's scores.",
    )
    shortlist_factor: float = Field(
        4.0,
        ge=1,
        description="Pickers that rank by what is measured choose among this many times the quota, measured for that purpose. "
        "More follows the score more closely and costs scoring in proportion.",
    )

    @field_validator("strategy", "allocation", "picker")
    @classmethod
    def _known(cls, name: str | None, info: ValidationInfo) -> str | None:
        from selection.strategy import registry

        if name is not None and name not in registry(info.field_name):
            raise ValueError(nearest_name(info.field_name, name, registry(info.field_name)))
        return name
