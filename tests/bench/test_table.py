"""What docs/performance.md holds is printed from a run, its verdicts included."""

from bench.frame.table import section

RESULT = {
    "quick": False,
    "commit": "abc",
    "started_at": "2026-03-01T10:00:00+00:00",
    "seconds": 12.3,
    "machine": {"cores": 2, "processor": "A processor", "memory_bytes": 8 << 30},
    "settings": {"postgres_fsync": "on", "fsync_probe": {"p50_ms": 0.5, "p99_ms": 4.0}},
    "metrics": {
        "insert": {
            "unit": "rows/s",
            "rows": 100,
            "samples": [900.0, 800.0],
            "value": 850.0,
            "peer": "COPY",
            "peer_samples": [1000.0, 1000.0],
            "ratio": 0.85,
            "note": "one session",
        },
        "page": {
            "unit": "ms",
            "rows": 100,
            "samples": [12.34],
            "value": 12.34,
            "peer": None,
            "peer_samples": [],
            "ratio": None,
            "note": "",
        },
    },
}
BARS = {"insert": {"at_least": 0.9, "unit": "rows/s", "rows": 100, "runs": 2, "peer": "COPY"}}


def test_a_section_names_machine_and_settings_and_says_what_was_missed():
    text = "\n".join(section("tasks", RESULT, BARS))
    assert "## tasks" in text
    assert "2 cores of A processor, 8 GiB, fsync on" in text
    assert (
        "| insert (one session) | 850 rows/s | 2 | COPY: 1,000 | 0.85 | >= 0.9 x COPY: missed |"
        in text.splitlines()
    )


def test_a_figure_without_bar_and_peer_has_empty_cells():
    assert "| page | 12.3 ms | 1 |  |  |  |" in section("tasks", RESULT, BARS)


def test_a_bar_that_holds_is_said_to_hold():
    held = {"insert": BARS["insert"] | {"at_least": 0.8}}
    assert any(line.endswith("| >= 0.8 x COPY: holds |") for line in section("tasks", RESULT, held))
