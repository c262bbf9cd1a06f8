"""Selection's sections of the configuration. This module imports no heavy library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from selection.errors import nearest_name
from selection.registry import described, registry
from selection.scores import check


class EmbedConfig(BaseModel, extra="forbid", frozen=True):
    """The sentence embedder behind near-duplicates, holdout leakage and clusters."""

    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="Directory or repository id of a sentence-transformers model. Code inside the model directory never runs.",
    )
    revision: str | None = Field(
        None, description="Commit, tag or branch on the hub; pin a commit to make runs repeatable."
    )
    text: Literal["conversation", "prompt"] = Field(
        "conversation",
        description="The embedded text: all messages, or all but the response. prompt groups by task, independent of the answer.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="auto: bfloat16 where the device computes it natively (cosine to float32 about 0.99999), else float32.",
    )
    distill: bool = Field(
        False,
        description="Distil the model to a vector for each token of its vocabulary first, and embed a text as their weighted mean: "
        "many times faster on a processor, blind to the order of words (docs/scale.md).",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto uses the GPU if the machine has one.")
    batch_tokens: int = Field(
        8192,
        ge=1,
        description="Tokens in a batch, including padding. More is faster on a GPU and needs proportionally more memory.",
    )


DISTILLED_THRESHOLD = 0.985
"""`dedup.threshold` where `embed.distill` makes a static embedder: then it leaves out about as many examples as the transformer that it
comes from does at 0.95, and most of them the same (docs/scale.md)."""


class DedupConfig(BaseModel, extra="forbid", frozen=True):
    """Near-duplicates: only the representative of a group can be picked."""

    threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Cosine from which an example counts as a near-duplicate of its representative. Lower also removes paraphrases. With "
        f"embed.distill it is {DISTILLED_THRESHOLD} unless given.",
    )
    same_answer: bool = Field(
        True,
        description="An example with a short response (up to 10 words) is a near-duplicate only of examples with the same response: two "
        "questions of one template are near in any embedding. false: by the embedding alone.",
    )
    neighbours: int = Field(
        16,
        ge=1,
        description="Cells of the index that are searched for each example, in pools above 50,000 examples. "
        "More finds more near-duplicates and takes proportionally longer. Smaller pools are searched exactly.",
    )


HoldoutSize = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]


class HoldoutConfig(BaseModel, extra="forbid", frozen=True):
    """Held-out examples for evaluation. They and their near-duplicates cannot be picked."""

    dev: HoldoutSize = Field(
        500,
        description="Examples to evaluate on during development: a count, or a share (0.05) of the distinct trainable examples.",
    )
    test: HoldoutSize = Field(
        1000,
        description="Examples used for reports only: a count or a share. Intervals narrow with 1/sqrt(count).",
    )
    dev_files: list[str] = Field(
        default=[],
        description="Files whose examples are dev, instead of a draw from the pool; same formats as pool.files. Never picked from.",
    )
    test_files: list[str] = Field(
        default=[],
        description="Files whose examples are test, instead of a draw from the pool; same formats as pool.files. Never picked from.",
    )
    overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="A pool example that shares more than this part of its 13-word runs with a held-out example cannot be picked: it is "
        "probably the same text in another template. 1 turns the check off.",
    )


class ClusterConfig(BaseModel, extra="forbid", frozen=True):
    """k-means cells over the embeddings (faiss), joined to the clusters that get quotas."""

    k: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Clusters. auto: the square root of the number of examples, at most 4,096: 31 for 1,000, 245 for 60,000. "
        "More clusters separate tasks better, with fewer measured examples in each.",
    )
    cells: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="k-means cells that are joined to k clusters. Each cell has the same weight, so a huge task does not take most of "
        "the clusters. auto: 12 per cluster, at least 4 examples per cell on average, at most 8,192. Equal to k: plain k-means.",
    )
    iterations: int = Field(
        20, ge=1, description="Lloyd iterations; time is proportional, 20 come within 1% of convergence."
    )
    sample_per_centroid: int = Field(
        64,
        ge=1,
        description="Random examples per cell to train the centroids on; all examples are assigned. More costs time and memory. "
        "faiss alone would use at most 256.",
    )
    linkage: Literal["auto", "average", "ward"] = Field(
        "auto",
        description="How cells are joined. average follows tasks more closely if the pool has distinct tasks; ward makes more even "
        "clusters if it has none. auto tries both and keeps the clusters with the higher silhouette.",
    )
    adapt: bool = Field(
        True,
        description="Whether later rounds split clusters with uneven losses and join similar clusters (docs/strategies.md).",
    )
    recluster: bool = Field(
        False,
        description="Whether to make clusters, or groups, of the whole pool again when it has grown. Otherwise they stay, and new examples "
        "are assigned to them (docs/strategies.md). `round --recluster` sets it for a round.",
    )
    restarts: int = Field(
        1, ge=1, description="Independent starts; the one with the least inertia is kept. Time is proportional."
    )
    spherical: bool = Field(
        True,
        description="Whether centroids have unit length (cosine k-means), so that diffuse clusters do not attract more examples.",
    )


class KindsConfig(BaseModel, extra="forbid", frozen=True):
    """Kinds of example by the wording of prompts, which strategies kind_* and source_kinds spread the budget over."""

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
    apart_inside: float = Field(
        0.5,
        gt=0,
        lt=1.5,
        description="The same for what is found when a kind is searched again by its own common wording.",
    )
    shared: float = Field(
        0.6,
        ge=0,
        le=2,
        description="What is found inside a kind is a kind of its own if two of its prompts have so much of their wording in common. Less "
        "finds more tasks, and cuts free questions by topic. Above 1: kinds are not searched again.",
    )
    open_words: int = Field(
        18,
        ge=1,
        description="Words of the median response from which on a kind may be open conversation, whose kinds are topics and count as one "
        "group. More keeps more of them apart.",
    )
    open_shared: float = Field(
        0.25,
        ge=0,
        le=1,
        description="A kind with such responses is open if two of them have less than this much of their wording in common. 0: none is.",
    )
    uneven: float = Field(
        0.65,
        ge=0,
        description="Where sources say nothing, the default strategy goes by kinds of prompt if their shares of the pool are at least so "
        "many nats from equal ones (Kullback-Leibler divergence). Below, equal shares of kinds gain nothing.",
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
    """What a round measures with the current adapter, and the score that examples are ranked by."""

    sample_per_cluster: Annotated[int, Field(ge=1)] | Literal["all", "auto"] = Field(
        "auto",
        description="Random examples to measure in each cluster, or all. The error of a cluster's mean falls with "
        "1/sqrt(sample), the cost of scoring is proportional. auto: 2 to 8, as many as take about a ninth of the round's training time "
        "(with 1, differences between clusters cannot be separated from chance). The default strategy measures nothing if 2 would take "
        "longer than that, or if the clusters are not distinct.",
    )
    by: str | dict[str, float] = Field(
        "nll",
        description="The score that a picker ranks by, if it uses one, or several scores with weights, {nll: 1, quality: 2}, whose ranks "
        f"are averaged. Quotas and the tail cut always use NLL. Scores:{described('score')}",
    )
    also: list[str] = Field(
        default=[],
        description="Further scores to measure and report, without ranking by them. ifd costs another forward pass, "
        "less about as much as training on the measured examples for each of `checkpoints`.",
    )
    reference: str | None = Field(None, description="Directory of the reference adapter of the score learnability.")
    quality: str | None = Field(
        None, description="Numeric column of your files for the score quality; higher = better."
    )
    gradient_dimension: int = Field(
        16384,
        ge=16,
        description="Dimensions of an example's stored gradient (score less), 2 bytes each. The error of a cosine is "
        "1/sqrt(dimensions).",
    )
    checkpoints: int = Field(
        4,
        ge=1,
        le=16,
        description="Score and strategy less sum cosines over so many checkpoints of the round before, evenly over its steps, weighted by "
        "their mean learning rates. Time and stored gradients grow with them. In a first round they are those of a warm-up on 5% of the "
        "pool (at most 1,000 examples). 1: only the round's adapter, and no warm-up; a first round then uses a new adapter.",
    )
    preconditioner: Literal["adamw", "less"] = Field(
        "adamw",
        description="How Adam's moments weight a candidate's gradient (score less). adamw: the step that AdamW would take, m̂ / (√v̂ + ε) "
        "with bias correction. less: that of LESS's code, m / √(v + ε), in which entries far below 1e-4 hardly count.",
    )

    @field_validator("by")
    @classmethod
    def _known_scores(cls, by: str | dict[str, float]) -> str | dict[str, float]:
        check(by)
        return by

    @field_validator("also")
    @classmethod
    def _known_also(cls, also: list[str]) -> list[str]:
        for name in also:
            check(name)
        return also


class NoiseConfig(BaseModel, extra="forbid", frozen=True):
    """Suspected noise: examples whose prompt makes their response less likely, such as exchanged answers."""

    look: Literal["none", "measured", "picks", "auto"] = Field(
        "auto",
        description="The examples to check, from the second round on: none, those measured anyway, or also every expected pick, which "
        "takes about 1.4 forward passes over each. auto checks picks if at least 5% of the examples checked so far are suspected, or if "
        "none were checked; all measuring together takes at most a ninth of the training time.",
    )
    hold: bool = Field(True, description="Whether suspects are held back. The report lists them either way.")
    release: list[str] = Field(
        default=[], description="Ids of examples that are never suspected; the report shows the ids."
    )


class SelectConfig(BaseModel, extra="forbid", frozen=True):
    """The strategy, and changes to its parameters. A null field uses the strategy's own value."""

    strategy: str = Field("default", description=f"A named pair of allocation and picker:{described('strategy')}")
    allocation: str | None = Field(
        None,
        description=f"How the budget is divided over clusters: {', '.join(registry('allocation'))}.",
    )
    picker: str | None = Field(
        None, description=f"Which examples fill a cluster's quota: {', '.join(sorted(registry('picker')))}."
    )
    by: str = Field(
        "source",
        min_length=1,
        description="Field of the examples over whose values strategies source_* and the default spread the budget: source (a field of "
        "that name, else the file), or any other field. Examples without it make one group. With a field that no example has, the default "
        "goes by clusters.",
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Exponent on a cluster's loss or size. 0 gives every cluster the same share, 1 is proportional, above 1 sharpens.",
    )
    explore: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the budget for random examples of the whole pool. More covers what the strategy "
        "overlooks, and makes the selection more like random.",
    )
    learn: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Allocation adaptive: exponent on the speed at which a cluster's loss fell, relative to the mean. 0 ignores it.",
    )
    tail_cut: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of a cluster's measured examples to exclude, highest loss first, as likely noise "
        "(in clusters with at least 5 measured). More removes more mislabelled examples and more of the hardest good ones.",
    )
    length_bins: int = Field(
        4,
        ge=1,
        description="Picker top: number of length bins in a cluster. With 1, scores per token favour short examples.",
    )
    mid_band: float = Field(
        0.5, gt=0, le=1, description="Picker mid: share of a cluster's scores to draw from, centred on the median."
    )
    rising: bool | None = Field(
        None,
        description="Picker mid: whether the share moves up in each round, centred on quantile 1 - 1 / (round + 1).",
    )
    shortlist_factor: float = Field(
        4.0,
        ge=1,
        description="Pickers that rank by measurements choose among this many times the quota, measured for them. "
        "More follows the score more closely; the cost of scoring is proportional.",
    )

    @field_validator("strategy", "allocation", "picker")
    @classmethod
    def _known(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and name not in registry(info.field_name):
            raise ValueError(nearest_name(info.field_name, name, registry(info.field_name)))
        return name
