"""k-means clusters, their names, quality and map."""

from __future__ import annotations

import numpy as np
import pytest

from selection.cluster import (
    assign,
    choose_cells,
    choose_k,
    cluster,
    describe,
    measure_added,
    measure_groups,
    named_texts,
    nearest_to_centre,
    telling_terms,
)
from selection.config import ClusterConfig
from selection.errors import SelectionError
from selection.plane import on_plane, principal_plane
from selection.vectors import unit

TOPICS = {
    "cooking": "recipe flour butter oven",
    "astronomy": "planet orbit telescope galaxy",
    "football": "goal referee penalty striker",
}


@pytest.fixture(scope="module")
def blobs():
    """Three well separated clouds of unit vectors, and the cloud of each."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [300, 150, 50])
    return unit(5 * np.eye(3, 16)[label] + rng.normal(size=(500, 16))).astype(np.float16), label


def test_clouds_are_found_whatever_their_size(blobs):
    from sklearn.metrics import adjusted_rand_score

    vectors, label = blobs
    found = cluster(vectors, ClusterConfig(k=3, restarts=3), seed=0)
    assert adjusted_rand_score(label, found.assignment) > 0.98
    assert found.quality["silhouette"] > 0.5 and found.quality["k"] == 3


def test_every_example_is_with_its_nearest_centroid(blobs):
    vectors, _ = blobs
    found = cluster(vectors, ClusterConfig(k=12, cells=12), seed=0)
    cosine = unit(vectors) @ unit(found.centroids).T
    assert (cosine[np.arange(500), found.assignment] >= cosine.max(1) - 1e-5).all()
    assert np.allclose(found.distance, 1 - cosine.max(1), atol=1e-4)


def test_the_same_seed_gives_the_same_clusters_and_another_one_others(blobs):
    first, again, other = (cluster(blobs[0], ClusterConfig(k=12), seed=seed).assignment for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_trap_23_the_sample_that_centroids_are_trained_on_is_stated_and_obeyed(blobs):
    small = cluster(blobs[0], ClusterConfig(k=4, cells=8, sample_per_centroid=5), seed=0)
    whole = cluster(blobs[0], ClusterConfig(k=4, cells=8, sample_per_centroid=1000), seed=0)
    assert small.quality["sample"] == 40 and whole.quality["sample"] == 500
    assert not np.allclose(small.centroids, whole.centroids)


def test_centroids_are_of_unit_length_when_spherical(blobs):
    assert np.allclose(np.linalg.norm(cluster(blobs[0], ClusterConfig(k=5), seed=0).centroids, axis=1), 1, atol=1e-5)
    assert (
        np.linalg.norm(cluster(blobs[0], ClusterConfig(k=5, spherical=False), seed=0).centroids, axis=1) < 0.999
    ).any()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (1000, 31), (59_000, 242), (10**9, 4096)])
def test_auto_grows_with_the_pool_as_documented(n, k):
    assert abs(choose_k("auto", n) - k) <= 1 and choose_k(7, n) == 7


@pytest.mark.parametrize(("k", "n", "cells"), [(245, 60_000, 2940), (31, 1000, 250), (1000, 10**6, 8192), (5, 8, 5)])
def test_cells_grow_with_the_clusters_as_documented(k, n, cells):
    assert choose_cells("auto", k, n) == cells and choose_cells(9, 5, n) == 9 and choose_cells(3, 5, n) == 5


@pytest.fixture(scope="module")
def uneven():
    """30 tasks of 12 examples and one of 3,000; and the task of each example."""
    rng = np.random.default_rng(4)
    task = np.repeat(np.arange(31), [3000] + [12] * 30)
    centres = rng.normal(size=(31, 32))
    return unit(4 * unit(centres)[task] + 0.5 * rng.normal(size=(3360, 32))).astype(np.float16), task


@pytest.mark.parametrize(("linkage", "least"), [("average", 28), ("ward", 22)])
def test_a_huge_task_does_not_take_most_of_the_clusters(linkage, least, uneven):
    vectors, task = uneven

    def told_apart(config):
        """Tasks that have a cluster which is no other's, and clusters of the huge one; over three seeds."""
        found = [cluster(vectors, config, seed).assignment for seed in range(3)]
        main = [[np.bincount(clusters[task == t]).argmax() for t in range(31)] for clusters in found]
        tasks = np.mean([len(set(clusters)) for clusters in main])
        return tasks, np.mean([len(set(clusters[task == 0])) for clusters in found])

    joined, huge = told_apart(ClusterConfig(k=40, cells=400, linkage=linkage))
    plain, huge_before = told_apart(ClusterConfig(k=40, cells=40))
    assert plain < 19 < least < joined
    assert huge < 20 < 24 < huge_before


def test_joined_clusters_are_a_partition_with_their_own_centroids(uneven):
    vectors, _ = uneven
    found = cluster(vectors, ClusterConfig(k=40, cells=400), seed=0)
    assert set(found.assignment) == set(range(40)) and found.centroids.shape == (40, 32)
    own = np.einsum("nd,nd->n", unit(vectors), unit(found.centroids)[found.assignment])
    assert np.allclose(found.distance, 1 - own, atol=1e-3)
    assert found.quality["cells"] == 400


def test_duplicates_leave_empty_cells_and_every_cluster_is_filled_all_the_same():
    vectors = np.repeat(np.eye(5, 8), 40, axis=0).astype(np.float16)
    found = cluster(vectors, ClusterConfig(k=5, cells=50), seed=0)
    assert np.bincount(found.assignment).tolist() == [40] * 5


def test_more_clusters_than_examples_are_refused(blobs):
    with pytest.raises(SelectionError, match="cluster.k: expected at most 500, .* found 501"):
        cluster(blobs[0], ClusterConfig(k=501), seed=0)


def test_one_cluster_and_one_example():
    found = cluster(np.ones((1, 4), np.float16), ClusterConfig(), seed=0)
    assert found.assignment.tolist() == [0] and found.quality["silhouette"] is None


def test_a_name_says_what_is_in_a_cluster_and_not_in_the_others():
    texts = [f"please answer this: {words}" for words in TOPICS.values() for _ in range(5)]
    names = describe(texts, np.repeat([0, 1, 2], 5), 4)
    for name, words in zip(names, TOPICS.values(), strict=False):
        assert set(name.replace(",", "").split()) <= set(words.split())
    assert names[3] == "cluster 3", "an empty one"


def test_equal_names_are_told_apart_and_texts_without_words_have_one():
    assert describe(["red stone", "red stone"], np.array([0, 1]), 2)[1].endswith("(2)")
    assert describe(["1 2", "?!"], np.array([0, 1]), 2) == ["cluster 0", "cluster 1"]


def project(embeddings):
    return on_plane(embeddings, principal_plane(embeddings))


def test_the_map_keeps_clouds_apart(blobs):
    points = project(blobs[0])
    centres = np.array([points[blobs[1] == c].mean(0) for c in range(3)])
    spread = max(points[blobs[1] == c].std() for c in range(3))
    assert (
        points.shape == (500, 2)
        and min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 1.5 * spread
    )


@pytest.mark.filterwarnings("error")
def test_a_pool_of_one_example_has_a_map():
    assert project(np.ones((1, 4), np.float16)).tolist() == [[0.0, 0.0]]


def test_naming_reports_each_text_that_it_reads(monkeypatch):
    """Every report is a place where the work can be stopped."""
    monkeypatch.setattr("selection.cluster.NAME_TEXTS", 3)
    counts, assignment = [], np.array([0, 1, 0, 0, 0, 1])
    describe(["red stone"] * 6, assignment, 2, counts.append)
    assert counts == [1] * 5 and named_texts(assignment) == 5


def test_telling_terms_are_frequent_in_their_cluster_and_rare_in_others():
    texts = [
        "river bank water common",
        "river boat water common",
        "python code loop common",
        "python code print common",
    ]
    terms = telling_terms(texts, np.array([0, 0, 1, 1]), 3, 2)
    assert [set(found) for found in terms] == [{"river", "water"}, {"python", "code"}, set()]


def test_the_examples_nearest_to_a_clusters_centre_come_nearest_first():
    embeddings = np.array([[1, 0.0], [1, 0.6], [1, 0.2], [0, 1.0], [1, -0.1]])
    nearest = nearest_to_centre(embeddings, np.array([0, 0, 0, 1, 0]), 3, 2)
    assert [rows.tolist() for rows in nearest] == [[2, 0], [3], []]


def test_other_examples_join_the_cluster_of_their_nearest_cell(blobs):
    vectors, label = blobs
    found = cluster(vectors[::2], ClusterConfig(k=3, cells=12), seed=0)
    again, distance = assign(vectors[::2], found.cells, found.cluster_of, found.centroids)
    assert (again == found.assignment).all() and np.allclose(distance, found.distance, atol=1e-5)
    others, _ = assign(vectors[1::2], found.cells, found.cluster_of, found.centroids)
    assert (np.array([np.bincount(label[::2][again == c]).argmax() for c in range(3)])[others] == label[1::2]).all()


def test_groups_that_grow_keep_their_centre_and_new_ones_have_their_own(blobs):
    vectors, label = blobs
    old, _, _ = measure_groups(vectors[label < 2], label[label < 2], 2, 0)
    centroids, distance = measure_added(vectors, label, old, 3)
    whole, far, _ = measure_groups(vectors, label, 3, 0)
    assert (centroids[:2] == old).all() and np.allclose(centroids, whole, atol=1e-5)
    assert np.allclose(distance, far, atol=1e-5)
