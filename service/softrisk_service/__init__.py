"""The service: loads bundles, batches requests, answers over HTTP, counts."""
