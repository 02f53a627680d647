"""Scoring an archive: any number of X-rays, on all cores or on a Ray cluster, each once, into a Parquet dataset."""
