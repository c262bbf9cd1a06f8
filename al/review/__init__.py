"""A say before training: the proposed selection is read, changed and approved by people; what they decide is an artifact of the round.

    proposal ──page or file──▶ draft ──approve──▶ decision ──revise──▶ reviewed selection ──▶ training

docs/review.md tells how to use it.
"""
