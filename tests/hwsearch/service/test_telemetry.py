from __future__ import annotations

import pytest

from hwsearch.service.telemetry import Telemetry, exposition

parser = pytest.importorskip("prometheus_client.parser")


def test_prometheus_reads_the_sum_of_replicas() -> None:
    first, second = Telemetry(), Telemetry()
    for telemetry, seconds in ((first, 0.002), (second, 0.002), (second, 99.0)):
        labels = {"path": "/v1/predict", "method": "POST"}
        telemetry.add("hwsearch_requests_total", {**labels, "status": "200"})
        telemetry.observe("hwsearch_request_seconds", labels, seconds)
    first.add("hwsearch_predictions_total", {"metric": 'a"b\\c\nd'}, 3)
    text = exposition([first.snapshot(), second.snapshot()])
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    assert families["hwsearch_requests"].samples[0].value == 2 + 1
    assert families["hwsearch_predictions"].samples[0].labels == {"metric": 'a"b\\c\nd'}
    assert families["hwsearch_replicas"].samples[0].value == 2
    histogram = {s.labels.get("le"): s.value for s in families["hwsearch_request_seconds"].samples}
    buckets = {s.labels["le"]: s.value for s in families["hwsearch_request_seconds"].samples if "le" in s.labels}
    assert (buckets["0.001"], buckets["0.0025"], buckets["30.0"], buckets["+Inf"]) == (0, 2, 2, 3)
    assert histogram[None] == 3  # count is the last sample without an edge


def test_counters_start_empty() -> None:
    text = exposition([Telemetry().snapshot()])
    assert "# TYPE hwsearch_requests_total counter" in text
    assert "hwsearch_replicas 1" in text
