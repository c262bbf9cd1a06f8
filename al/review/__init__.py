"""Review before training: people read, change and approve the proposed selection. Their decision is an artifact of the round.

    proposal ──page or file──▶ draft ──approve──▶ decision ──revise──▶ reviewed selection ──▶ training

docs/review.md describes its use.
"""
