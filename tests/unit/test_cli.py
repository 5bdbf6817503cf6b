"""The command line stays small, and every failure is one clear line and a non-zero exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from screc.cli import app
from screc.verbs.options import finish

# The flags of each verb. A new one is a decision: write it down here and in the guide.
FLAGS = {
    "probe": {"out", "directory", "seconds", "threads", "as_json"},
    "train": {
        *("data", "out", "test", "like", "plan", "statistics", "dim", "bottom", "top", "interaction"),
        *("encoding", "rows", "min_count", "epochs", "batch_size", "dense_lr", "table_lr", "optimizer"),
        *("table_optimizer", "shuffle", "checkpoint_every", "seed", "threads", "restart", "on_error"),
        "as_json",
    },
    "compare": {
        *("data", "out", "test", "validation", "methods", "budgets", "seeds", "models", "dim", "bottom"),
        *("top", "batch_size", "epochs", "patience", "dense_lr", "table_lr", "shuffle", "bf16"),
        *("layer_bits", "day_samples", "jobs", "as_json"),
    },
    "profile": {
        *("data", "out", "model", "limit", "memory", "drift_from", "co_access", "plot", "on_error"),
        "as_json",
    },
    "sensitivity": {
        *("model", "data", "statistics", "out", "samples", "tt_ranks", "plans", "plot"),
        "as_json",
    },
    "plan": {
        *("statistics", "dram", "out", "model", "dim", "system", "batch_size", "tt_ranks", "max_tt_share"),
        *("sensitivity", "max_loss", "objective", "target_rate"),
        *(
            "tt",
            "ssd",
            "row_cache",
            "roles",
            "data_flow",
            "formats",
            "row_scale",
            "method",
            "time_limit",
            "plot",
        ),
        *("read", "explain", "what_if", "compare", "as_json"),
    },
    "pack": {
        *("model", "out", "plan", "statistics", "precision", "sample", "max_auc_loss", "max_log_loss_rise"),
        *("page_order", "order_from", "order_batch_size", "as_json"),
    },
    "verify": {"artifact", "as_json"},
    "predict": {
        *("artifact", "data", "out", "batch_size", "threads", "io", "queue_depth", "on_error", "as_json"),
    },
    "serve": {
        *("artifacts", "repository", "host", "port", "grpc_port", "threads", "io", "queue_depth"),
        *(
            "max_batch",
            "queue_delay_ms",
            "split",
            "sla_ms",
            "workers",
            "max_queued",
            "deadline_ms",
            "drain_s",
        ),
        *(
            "token_file",
            "tls_cert",
            "tls_key",
            "max_request",
            "max_rows",
            "max_ids",
            "updates",
            "log",
            "as_json",
        ),
    },
    "load": {
        *("target", "model", "in_process", "rate", "find_max", "sla", "percentile", "seconds", "size"),
        *("largest", "data", "encoder", "zipf", "pooling", "timeout", "deadline", "connections"),
        *("token_file", "seed", "picture", "threads", "as_json"),
    },
    "bench": {"artifact", "data", "batch_sizes", "seconds", "threads", "io", "queue_depth", "as_json"},
}


def screc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "screc.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_verbs_and_flags_are_the_agreed_ones() -> None:
    group = typer.main.get_command(app)
    found = {name: {option.name for option in verb.params} for name, verb in group.commands.items()}
    assert found == FLAGS


@pytest.mark.parametrize("verb", FLAGS)
def test_every_verb_has_help(verb: str) -> None:
    result = screc(verb, "--help")
    assert result.returncode == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "nowhere", "--data", "synthetic:rows=10"], ["nowhere"]),
        (["verify", "nowhere"], ["nowhere"]),
        (["profile", "--data", "cryteo:x", "--out", "s"], ["cryteo", "criteo"]),
        (["profile", "--data", "synthetic:rows=ten", "--out", "s"], ["rows", "ten"]),
        (["profile", "--data", "criteo:nowhere.tsv", "--out", "s"], ["nowhere.tsv"]),
        (["train", "--data", "synthetic:rows=10", "--out", "m", "--plan", "p.json"], ["--statistics"]),
        (["train", "--data", "synthetic:rows=10", "--out", "m", "--bottom", "a,b"], ["a,b"]),
        (["train", "--data", "synthetic:rows=10", "--out", "m", "--like", "x", "--dim", "8"], ["--dim", "x"]),
        (["sensitivity", "m", "--data", "synthetic:rows=9", "--statistics", "nowhere"], ["nowhere"]),
        (["plan", "--statistics", "nowhere", "--dram", "10%"], ["nowhere"]),
        (["plan", "--dram", "10%"], ["--statistics", "--read"]),
        (["plan", "--read", "nowhere.json"], ["nowhere.json"]),
        (["plan", "--read", "p", "--what-if", "dram=1"], ["--what-if"]),
        (["plan", "--compare", "a.json", "b.json"], ["a.json"]),
        (["plan", "--statistics", "s", "--dram", "1", "--row-scale", "band"], ["--row-scale", "table"]),
        (["pack", "nowhere", "--out", "a"], ["nowhere"]),
        (["pack", "m", "--out", "a", "--page-order", "co-access"], ["--order-from"]),
        (["pack", "m", "--out", "a", "--page-order", "frequency"], ["--statistics"]),
        (["pack", "m", "--out", "a", "--order-from", "synthetic:rows=9"], ["--page-order"]),
        (["predict"], ["artifact"]),
        (["fly"], ["fly"]),
    ],
)
def test_errors_are_one_line_and_a_code(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "screc.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode in (1, 2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("screc: error: ")
    for word in words:
        assert word.lower() in lines[0].lower()
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_numbers_that_are_not_defined_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    finish(True, {"auc": float("nan"), "parts": [1.5, float("inf")], "path": Path("x")})
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=pytest.fail) == {"auc": None, "parts": [1.5, None], "path": "x"}


def test_training_without_torch_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from screc.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "--data", "synthetic:rows=10", "--out", "m"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "screc: error: training needs torch: pip install 'screc[train]'\n"


def test_raw_columns_without_an_encoder_say_which_option_brings_one(tmp_path: Path) -> None:
    (tmp_path / "day.tsv").write_text("\t".join(["1"] + ["2"] * 13 + ["aa"] * 26) + "\n")
    result = screc("profile", "--data", f"criteo:{tmp_path / 'day.tsv'}", "--out", tmp_path / "s")
    assert result.returncode == 1
    assert "'C1'" in result.stderr
    assert "--model" in result.stderr


def test_output_into_a_file_has_no_traces_of_progress_bars(tmp_path: Path) -> None:
    result = screc("profile", "--data", "synthetic:rows=100,scale=0.001", "--out", tmp_path / "s")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("100 samples")
    assert result.stdout.splitlines()[-1].startswith("written: ")
