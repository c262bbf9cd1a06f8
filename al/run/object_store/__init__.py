"""Artifacts on an object store or a shared file system, which the config's key `artifacts` names by a URL of fsspec.

    artifacts/.tmp-…  ──upload──▶ <url>/<run id>/<stage>/<fingerprint>-<digits>/   ──first use──▶ artifacts/<stage>/<fingerprint>/
     sealed, here                  files, then manifest.json; then the row of run.db                a cache, which may be deleted

`objects` writes and reads what lies there, `uploads` knows from events.jsonl what this run has written, `keeping` lets a
run use a store.
"""
