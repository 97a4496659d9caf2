"""Asks a collector what PyPI's prometheus-api-client asks a Prometheus.

Usage: client.py URL
"""

import sys
from datetime import datetime, timedelta

from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException


def check(url: str, method: str) -> None:
    """Every call that only asks, by GET or POST."""
    with PrometheusConnect(url=url, disable_ssl=True, method=method) as prometheus:
        assert prometheus.check_prometheus_connection()
        assert "node_memory_MemTotal_bytes" in prometheus.all_metrics()
        assert {"__name__", "instance", "job"} <= set(prometheus.get_label_names())
        (instance,) = prometheus.get_label_values("instance", params={"match[]": "node_memory_MemTotal_bytes"})
        end = datetime.now()
        start = end - timedelta(minutes=10)
        series = prometheus.get_series(start, end, params={"match[]": "node_memory_MemTotal_bytes"})
        assert [one["instance"] for one in series] == [instance], series

        labels = {"instance": instance}
        (now,) = prometheus.get_current_metric_value("node_memory_MemTotal_bytes", label_config=labels)
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            total = int(meminfo.readline().split()[1]) * 1024
        assert float(now["value"][1]) == total, now
        (past,) = prometheus.get_metric_range_data(
            "node_memory_MemTotal_bytes", labels, start_time=start, end_time=end + timedelta(seconds=1)
        )
        assert past["values"] and {float(value) for _, value in past["values"]} == {total}, past
        (steps,) = prometheus.custom_query_range("vector(1)", start, end, "60")
        assert len(steps["values"]) == 11, steps
        assert prometheus.custom_query("sum(nothing)") == []
        assert [value for _, value in [prometheus.custom_query("1 + 1")]] == ["2"]

        targets = prometheus.get_targets(state="active")["activeTargets"]
        assert [target["labels"]["instance"] for target in targets] == [instance], targets
        assert prometheus.get_scrape_pools() == ["agents"]
        (told,) = prometheus.get_target_metadata({"instance": instance}, metric="node_memory_MemTotal_bytes")
        assert told["type"] == "gauge", told
        known = prometheus.get_metric_metadata("node_memory_MemTotal_bytes", limit=5, limit_per_metric=1)
        assert known, known
        try:
            prometheus.custom_query("up{")
        except PrometheusApiClientException as refused:
            assert "400" in str(refused) and "parse error" in str(refused), refused
        else:
            raise AssertionError("a wrong query has a value")


if __name__ == "__main__":
    for by in ("GET", "POST"):
        check(sys.argv[1], by)
