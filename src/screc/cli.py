"""The command line: each verb parses its options, calls one room, and prints. No logic lives here."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from screc.verbs.options import (
    BadLines,
    Data,
    Encoding,
    Flow,
    Interaction,
    Io,
    Json,
    Method,
    OnError,
    Optimizer,
    PageOrdering,
    RowScale,
    Threads,
    WantedPrecision,
    app,
    console_for,
    finish,
    open_data,
    progress_bar,
    widths,
)

# What the extra `serve` brings.
_SERVE_PACKAGES = ("fastapi", "grpc", "uvicorn", "uvloop", "google", "google.protobuf")


@app.command()
def probe(
    out: Annotated[Path, typer.Option(help="Where to write the system spec.")] = Path("system.json"),
    directory: Annotated[Path, typer.Option(help="Directory on the SSD that will hold artifacts.")] = Path(
        "."
    ),
    seconds: Annotated[float, typer.Option(help="Time to spend, about.")] = 30.0,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Measure this host: row gather, TT rebuild, dense layers, SSD reads."""
    from screc.planning import probe as measure
    from screc.planning import system_summary

    console = console_for(as_json)
    with progress_bar(console, "probing") as report:
        system = measure(directory, seconds=seconds, threads=threads, progress=lambda _, *step: report(*step))
    system.save(out)
    system_summary(system, console)
    console.print(f"written: {out}")
    finish(as_json, system.to_dict())


# What `train --like` takes from the checkpoint.
_FROM_PARENT = ("dim", "bottom", "top", "interaction", "encoding", "rows", "min_count")


@app.command()
def train(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option(help="Directory of the checkpoint.")],
    test: Annotated[str | None, typer.Option(help="Log to evaluate on at the end.")] = None,
    like: Annotated[Path | None, typer.Option(help="Checkpoint whose encoder and shape to use.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Train each table in the bands of this plan.")] = None,
    statistics: Annotated[Path | None, typer.Option(help="The statistics the plan was made from.")] = None,
    dim: Annotated[int, typer.Option(help="Embedding dimension.")] = 16,
    bottom: Annotated[str, typer.Option(help="Hidden widths of the bottom MLP.")] = "512,256,64",
    top: Annotated[str, typer.Option(help="Hidden widths of the top MLP.")] = "512,256",
    interaction: Annotated[Interaction, typer.Option(help="How features interact.")] = Interaction.DOT,
    encoding: Annotated[Encoding, typer.Option(help="How raw categories become rows.")] = Encoding.VOCABULARY,
    rows: Annotated[
        int | None, typer.Option(help="Rows of a table: exactly (hash), at most (vocabulary).")
    ] = None,
    min_count: Annotated[int, typer.Option(help="Vocabulary: values seen less often share a row.")] = 1,
    epochs: Annotated[int, typer.Option(help="Passes over the log.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 2048,
    dense_lr: Annotated[float, typer.Option(help="Learning rate of MLPs and TT cores.")] = 1e-3,
    table_lr: Annotated[float, typer.Option(help="Learning rate of table rows.")] = 0.02,
    optimizer: Annotated[Optimizer, typer.Option(help="For MLPs and TT cores.")] = Optimizer.ADAM,
    table_optimizer: Annotated[Optimizer, typer.Option(help="For table rows.")] = Optimizer.ADAGRAD,
    shuffle: Annotated[int, typer.Option(help="Samples shuffled together; 0 = the log's order.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Samples between checkpoints; 0 = at the end.")] = 0,
    seed: Annotated[int, typer.Option(help="Of initialisation and shuffle.")] = 0,
    threads: Threads = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Replace a checkpoint instead of resuming.")
    ] = False,
    on_error: BadLines = OnError.RAISE,
    as_json: Json = False,
) -> None:
    """Train a DLRM; Ctrl-C saves, the same command resumes."""
    import tempfile

    from screc.data import fit_encoder
    from screc.models import DLRM, DlrmConfig
    from screc.planning import Plan
    from screc.statistics import AccessStatistics
    from screc.storage import Checkpoint
    from screc.training import TrainingConfig
    from screc.training import train as run

    console = console_for(as_json)
    if (plan is None) != (statistics is None):
        raise typer.BadParameter(
            "--plan and --statistics go together: the statistics say which ids a band holds"
        )
    for name in _FROM_PARENT if like else ():
        if context.get_parameter_source(name).name == "COMMANDLINE":
            option = name.replace("_", "-")
            raise typer.BadParameter(f"--{option} and --like exclude each other: {like} says what it is")
    parent = Checkpoint.open(like) if like else None
    with tempfile.TemporaryDirectory() as folder:
        assets = parent.assets if parent else Path(folder)
        if not parent and not data.startswith("synthetic:"):
            with progress_bar(console, "fitting the encoder") as report:
                options = {"kind": encoding.value, "rows": rows, "min_count": min_count}
                encoder = fit_encoder(data, **options, on_error=on_error.value, progress=report)
            encoder.save(assets / "encoder")
        log = open_data(data, assets, on_error)
        if parent:
            config = DlrmConfig.from_dict(parent.model)
        else:
            config = DlrmConfig(
                num_dense=log.num_dense,
                embedding_dim=dim,
                bottom_mlp=(*widths(bottom), dim) if log.num_dense else (),
                top_mlp=(*widths(top), 1),
                interaction=interaction.value,
            )
        layouts = Plan.load(plan).layouts if plan else None
        band_ids = AccessStatistics.load(statistics).band_ids(layouts) if plan else None
        model = DLRM.build(config, log.tables, layouts=layouts, band_ids=band_ids, seed=seed)
        console.print(f"{len(log.tables)} tables, {model.tables.num_bytes / 1e6:,.1f} MB of rows and cores")
        with progress_bar(console, "training") as report:
            result = run(
                model,
                log,
                TrainingConfig(
                    batch_size=batch_size,
                    epochs=epochs,
                    dense_optimizer=optimizer.value,
                    dense_lr=dense_lr,
                    table_optimizer=table_optimizer.value,
                    table_lr=table_lr,
                    seed=seed,
                    num_threads=threads or len(os.sched_getaffinity(0)),
                    shuffle_window=shuffle,
                    checkpoint_every_samples=checkpoint_every,
                ),
                out=out,
                evaluation=open_data(test, assets, on_error) if test else None,
                resume=not restart,
                progress=lambda state: report(state.samples, state.total_samples),
                assets=assets if (assets / "encoder").is_dir() else None,
            )
    console.print(result.message)
    if result.evaluation:
        console.print(f"AUC {result.evaluation.auc:.4f}, log-loss {result.evaluation.log_loss:.4f}")
    finish(as_json, result)
    if result.interrupted:
        raise typer.Exit(130)


@app.command()
def profile(
    data: Data,
    out: Annotated[Path, typer.Option(help="Where to write the statistics.")],
    model: Annotated[Path | None, typer.Option(help="Checkpoint whose encoder to use.")] = None,
    limit: Annotated[int | None, typer.Option(help="Count the first samples only.")] = None,
    memory: Annotated[
        str, typer.Option(help="Most memory for counting; rows that do not fit are estimated.")
    ] = "2GB",
    drift_from: Annotated[
        Path | None, typer.Option(help="Statistics of an earlier log, to show what changed since.")
    ] = None,
    co_access: Annotated[
        bool, typer.Option("--co-access", help="Also what ordering rows by co-access would be worth.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw what was counted (.svg or .png).")] = None,
    on_error: BadLines = OnError.RAISE,
    as_json: Json = False,
) -> None:
    """Count how often each row of each table is looked up."""
    from screc.planning import parse_bytes
    from screc.statistics import (
        AccessStatistics,
        co_access_summary,
        drift_summary,
        measure_co_access,
        measure_drift,
        plot_statistics,
        statistics_summary,
    )
    from screc.storage import Checkpoint

    console = console_for(as_json)
    earlier = AccessStatistics.load(drift_from) if drift_from else None
    log = open_data(data, Checkpoint.open(model).assets if model else None, on_error)
    if earlier:
        earlier.check_tables([(table.name, table.num_embeddings) for table in log.tables])
    with progress_bar(console, "counting") as report:
        counted = AccessStatistics.collect(
            log, limit=limit, memory_limit=parse_bytes(memory), progress=report
        )
    drift = measure_drift(earlier, counted) if earlier else ()
    counted.save(out)
    if plot:
        plot_statistics(counted, plot, drift=drift)
    statistics_summary(counted, console)
    if drift:
        drift_summary(drift, console)
    console.print(f"written: {out}")
    together = ()
    if co_access:
        with progress_bar(console, "ordering rows") as report:
            together = measure_co_access(log, limit=limit, progress=report)
        co_access_summary(together, console)
    finish(
        as_json,
        counted.to_dict()
        | {"drift": [asdict(one) for one in drift], "co_access": [asdict(one) for one in together]},
    )


@app.command()
def sensitivity(
    model: Annotated[Path, typer.Argument(help="Checkpoint with whole tables.")],
    data: Annotated[str, typer.Option(help="Labelled log other than the training data.")],
    statistics: Annotated[Path, typer.Option(help="Statistics from `screc profile`: the rows' ranks.")],
    out: Annotated[Path, typer.Option(help="Where to write the sensitivity.")] = Path("sensitivity.json"),
    samples: Annotated[int, typer.Option(help="Samples of the log to measure on.")] = 100_000,
    tt_ranks: Annotated[str, typer.Option(help="TT ranks to measure; empty for none.")] = "8,16,32,64",
    plans: Annotated[int, typer.Option(help="Random plans to check that losses add up.")] = 16,
    plot: Annotated[Path | None, typer.Option(help="Draw what each format costs (.svg or .png).")] = None,
    as_json: Json = False,
) -> None:
    """Measure what each table loses in each format; Ctrl-C keeps what is done, the same command goes on."""
    from screc.planning import plot_sensitivity, sensitivity_summary
    from screc.serving import SensitivityConfig, measure_sensitivity
    from screc.statistics import AccessStatistics
    from screc.storage import Checkpoint

    console = console_for(as_json)
    counted = AccessStatistics.load(statistics)
    checkpoint = Checkpoint.open(model)
    config = SensitivityConfig(samples=samples, tt_ranks=widths(tt_ranks), plans=plans)
    log = open_data(data, checkpoint.assets, OnError.RAISE)
    with progress_bar(console, "measuring") as report:
        kept = out.with_name(out.name + ".part")
        found = measure_sensitivity(checkpoint, log, counted, config, keep=kept, progress=report)
    found.save(out)
    if plot:
        plot_sensitivity(found, plot)
    sensitivity_summary(found, console)
    console.print(f"written: {out}")
    finish(as_json, found.to_dict())


@app.command()
def plan(
    statistics: Annotated[Path | None, typer.Option(help="Statistics from `screc profile`.")] = None,
    dram: Annotated[
        str | None, typer.Option(help="DRAM budget for rows: bytes (500MB) or a share (10%).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the plan.")] = Path("plan.json"),
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint: gives the dimension and the MLPs' work.")
    ] = None,
    dim: Annotated[int, typer.Option(help="Embedding dimension, where no checkpoint is given.")] = 16,
    system: Annotated[
        Path | None, typer.Option(help="System spec; without one this host is probed now.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per batch that will be served.")] = 1024,
    tt_ranks: Annotated[str, typer.Option(help="TT ranks to choose from.")] = "8,16,32",
    max_tt_share: Annotated[
        float | None,
        typer.Option(help="Without --sensitivity: largest share of look-ups that TT may answer (0.05)."),
    ] = None,
    sensitivity: Annotated[
        Path | None, typer.Option(help="From `screc sensitivity`: what each table loses in each format.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="With it: most rise of the log-loss, nats a sample.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="throughput, latency (of a batch alone) or memory (least, for --target-rate).")
    ] = "throughput",
    target_rate: Annotated[
        float | None, typer.Option(help="Of --objective memory: samples per second to reach.")
    ] = None,
    tt: Annotated[bool, typer.Option("--tt/--no-tt", help="Whether rows may become tensor trains.")] = True,
    ssd: Annotated[bool, typer.Option("--ssd/--no-ssd", help="Whether rows may live on SSD.")] = True,
    row_cache: Annotated[str, typer.Option(help="Of it, for a cache of SSD rows.")] = "0",
    roles: Annotated[
        str, typer.Option(help="Threads that look up and that compute when serving, as 1+1, or mixed.")
    ] = "mixed",
    data_flow: Annotated[
        Flow, typer.Option(help="asymmetric: each core its own tables, where that is predicted to be faster.")
    ] = Flow.SYMMETRIC,
    formats: Annotated[
        str, typer.Option(help="Of rows: fp32, fp16, bf16, int8, int4; auto: all that are known.")
    ] = "auto",
    row_scale: Annotated[
        RowScale,
        typer.Option(help="A scale for each int8 or int4 row, or one that all rows of a band share."),
    ] = RowScale.ROW,
    method: Annotated[
        Method, typer.Option(help="mip, or to compare it with: a planner of the literature.")
    ] = Method.MIP,
    time_limit: Annotated[float, typer.Option(help="Seconds for the solver.")] = 60.0,
    plot: Annotated[
        Path | None, typer.Option(help="Draw where every table's rows go (.svg or .png).")
    ] = None,
    read: Annotated[Path | None, typer.Option(help="Show this plan; make none.")] = None,
    explain: Annotated[
        str | None, typer.Option(help="A table: its bands, and what it could have become instead.")
    ] = None,
    what_if: Annotated[
        list[str] | None, typer.Option(help="Plan again with OPTION=VALUE (dram=32GB), and compare.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two plans to show side by side; none is made.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose a place for every row: DRAM, tensor train or SSD."""
    from screc.planning import (
        Plan,
        PlanRequest,
        Sensitivity,
        SystemSpec,
        compare_plans,
        comparison_summary,
        format_bytes,
        plan_summary,
        plot_plan,
        table_alternatives,
        table_summary,
        with_mapping,
    )
    from screc.planning import probe as measure
    from screc.statistics import AccessStatistics
    from screc.storage import Checkpoint

    console = console_for(as_json)
    if compare:
        comparison = compare_plans(Plan.load(compare[0]), Plan.load(compare[1]))
        comparison_summary(comparison, (compare[0].name, compare[1].name), console)
        return finish(as_json, comparison)
    counted = AccessStatistics.load(statistics) if statistics else None
    losses = Sensitivity.load(sensitivity) if sensitivity else None
    if read:
        if what_if:
            raise typer.BadParameter("--what-if plans again: give the options that the plan was made with")
        made, request, host = Plan.load(read), None, None
    else:
        if counted is None or dram is None:
            raise typer.BadParameter("a plan is made from --statistics and --dram; --read shows one")
        checkpoint = Checkpoint.open(model) if model else None
        request = PlanRequest.of(
            counted,
            dim=checkpoint.model["embedding_dim"] if checkpoint else dim,
            weights=list(checkpoint.dense().values()) if checkpoint else (),
            tables=checkpoint.tables if checkpoint else (),
            method=method.value,
            sensitivity=losses,
            options={
                "dram": dram,
                "batch-size": str(batch_size),
                "tt-ranks": tt_ranks,
                "max-tt-share": str(max_tt_share),
                "max-loss": str(max_loss),
                "objective": objective,
                "target-rate": str(target_rate),
                "tt": "yes" if tt else "no",
                "ssd": "yes" if ssd else "no",
                "row-cache": row_cache,
                "roles": roles,
                "formats": formats,
                "row-scale": row_scale.value,
                "time-limit": str(time_limit),
            },
        )
        if request.kept_bytes:
            kept = format_bytes(request.kept_bytes)
            console.print(f"{kept} of the DRAM is left to the indices of the pages of sparse tables")
        if system:
            host = SystemSpec.load(system)
        else:
            with progress_bar(console, "probing") as report:
                host = measure(out.resolve().parent, progress=lambda _, *step: report(*step))
        with console.status("planning"):
            made = request.plan(host)
            if data_flow == Flow.ASYMMETRIC:
                made = with_mapping(made, counted)
        made.save(out)
    if plot:
        plot_plan(made, plot)
    if explain:
        others = table_alternatives(made, explain, counted, losses) if counted else []
        table_summary(made, explain, console, others)
        return finish(as_json, {"table": explain, "alternatives": [one.to_dict() for one in others]})
    plan_summary(made, console)
    if not read:
        console.print(f"written: {out}")
    if what_if and request and host:
        with console.status("planning"):
            other = request.changed(what_if).plan(host)
        comparison = compare_plans(made, other)
        comparison_summary(comparison, ("planned", ", ".join(what_if)), console)
        return finish(as_json, {"plan": made.to_dict(), "what_if": comparison.to_dict()})
    return finish(as_json, made.to_dict())


@app.command()
def pack(
    model: Annotated[Path, typer.Argument(help="Checkpoint.")],
    out: Annotated[Path, typer.Option(help="Directory of the artifact.")],
    plan: Annotated[
        Path | None, typer.Option(help="Plan; without one every table stays as it was trained.")
    ] = None,
    statistics: Annotated[Path | None, typer.Option(help="The statistics the plan was made from.")] = None,
    precision: Annotated[
        WantedPrecision, typer.Option(help="Of the dense layers; auto = the fastest within the limits.")
    ] = WantedPrecision.FP32,
    sample: Annotated[
        str | None, typer.Option(help="Labelled log that each precision's accuracy is measured on.")
    ] = None,
    max_auc_loss: Annotated[float, typer.Option(help="Most AUC a precision may lose.")] = 1e-4,
    max_log_loss_rise: Annotated[float, typer.Option(help="Most log-loss a precision may add.")] = 1e-4,
    page_order: Annotated[
        PageOrdering, typer.Option(help="Order of the rows on SSD; all but id cost 4 bytes of DRAM a row.")
    ] = PageOrdering.ID,
    order_from: Annotated[
        str | None, typer.Option(help="Log to count co-access from; its last tenth measures the saving.")
    ] = None,
    order_batch_size: Annotated[int, typer.Option(help="Samples per call, for page reads.")] = 256,
    as_json: Json = False,
) -> None:
    """Write the artifact that serves a checkpoint as planned."""
    from screc.planning import Plan, check_page_orders, format_bytes
    from screc.serving import PrecisionChoice, packed_precision
    from screc.statistics import AccessStatistics, PageOrderConfig, make_page_orders, page_order_summary
    from screc.storage import Checkpoint
    from screc.storage import pack as write

    console = console_for(as_json)
    if page_order == PageOrdering.CO_ACCESS and not order_from:
        raise typer.BadParameter("--page-order co-access needs --order-from, the log to count it from")
    if page_order == PageOrdering.FREQUENCY and not (order_from or statistics):
        raise typer.BadParameter("--page-order frequency needs --statistics or --order-from")
    if page_order == PageOrdering.ID and order_from:
        raise typer.BadParameter("--order-from needs --page-order co-access or frequency")
    counted = AccessStatistics.load(statistics) if statistics else None
    made = Plan.load(plan) if plan else None
    log = open_data(sample, Checkpoint.open(model).assets, OnError.RAISE) if sample else None
    choice = PrecisionChoice(
        precision=precision.value, max_auc_loss=max_auc_loss, max_log_loss_rise=max_log_loss_rise
    )
    if not sample and precision != WantedPrecision.FP32:
        raise typer.BadParameter(f"--precision {precision.value} needs --sample, to measure what it costs")
    orders = None
    if page_order != PageOrdering.ID:
        checkpoint = Checkpoint.open(model)
        with progress_bar(console, "ordering pages") as report:
            orders = make_page_orders(
                page_order.value,
                made.layouts if made else [table.layout for table in checkpoint.tables],
                counted,
                open_data(order_from, checkpoint.assets, OnError.RAISE) if order_from else None,
                PageOrderConfig(samples_per_call=order_batch_size),
                progress=report,
            )
        if made:
            check_page_orders(made, orders.orders)
        page_order_summary(orders, console)
    with progress_bar(console, "packing") as report:
        result = write(
            model,
            counted,
            made,
            out,
            page_orders=orders.orders if orders else (),
            choose_precision=packed_precision(log, choice, progress=report) if log else None,
            progress=report,
        )
    if result.precision:
        for name, measured in result.precision["accuracy"].items():
            console.print(
                f"{name}: AUC {measured['auc']:.4f} (loses {measured['auc_loss']:.1e}), log-loss "
                f"{measured['log_loss']:.4f} (rises {measured['log_loss_rise']:.1e}), "
                f"{measured['samples_per_s']:,.0f} samples/s"
            )
        console.print(f"dense layers in {result.precision['precision']}")
    holes = result.written_bytes < result.ssd_bytes
    console.print(
        f"{out}: {format_bytes(result.dram_bytes)} in DRAM (of it tensor trains "
        f"{format_bytes(result.tt_bytes)}, indices {format_bytes(result.index_bytes)}), "
        f"{format_bytes(result.ssd_bytes)} on SSD"
        + (f" ({format_bytes(result.written_bytes)} written, the rest holes)" if holes else "")
        + f", {result.seconds:.1f} s"
    )
    finish(as_json, asdict(result) | {"page_reads": [asdict(one) for one in orders.reads] if orders else []})


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="Artifact.")],
    as_json: Json = False,
) -> None:
    """Check every file and every page of an artifact."""
    from screc.storage import verify as check

    console = console_for(as_json)
    with progress_bar(console, "verifying") as report:
        result = check(artifact, progress=report)
    for damage in result.damages:
        console.print(f"[red]damaged[/red] {damage}")
    console.print(
        f"{artifact}: {'sound' if result.ok else 'damaged'}; {result.pages:,} pages, {result.files} files"
    )
    finish(as_json, result)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def predict(
    artifact: Annotated[Path, typer.Argument(help="Artifact.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Write the probabilities here (.npy, else text).")] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per call of the engine.")] = 2048,
    threads: Threads = 0,
    io: Io = "auto",
    queue_depth: Annotated[int, typer.Option(help="SSD reads in flight.")] = 256,
    on_error: BadLines = OnError.RAISE,
    as_json: Json = False,
) -> None:
    """Predict a click log from an artifact."""
    from screc.serving import Engine, score

    console = console_for(as_json)
    engine = Engine.open(artifact, threads=threads, io=io, queue_depth=queue_depth)
    log = open_data(data, engine.assets, on_error)
    with progress_bar(console, "predicting") as report:
        result = score(engine, log, batch_size=batch_size, out=out, progress=report)
    if result.metrics:
        console.print(f"AUC {result.metrics.auc:.4f}, log-loss {result.metrics.log_loss:.4f}")
    console.print(
        f"{result.num_samples:,} samples, {result.to_dict()['samples_per_s']:,.0f}/s in the engine, "
        f"peak resident memory {result.peak_resident_bytes / 1e6:,.0f} MB"
    )
    finish(as_json, result.to_dict())


@app.command()
def bench(
    artifact: Annotated[Path, typer.Argument(help="Artifact.")],
    data: Data,
    batch_sizes: Annotated[str, typer.Option(help="Samples per call.")] = "1,16,128,1024,4096",
    seconds: Annotated[float, typer.Option(help="Time for each batch size.")] = 3.0,
    threads: Threads = 0,
    io: Io = "auto",
    queue_depth: Annotated[int, typer.Option(help="SSD reads in flight.")] = 256,
    as_json: Json = False,
) -> None:
    """Measure an artifact's speed on this host."""
    from screc.planning import planned_rate
    from screc.serving import Engine, choose_data_flow, choose_roles, counters, measure
    from screc.storage import Artifact

    console = console_for(as_json)
    engine = Engine.open(artifact, threads=threads, io=io, queue_depth=queue_depth)
    log = open_data(data, engine.assets, OnError.RAISE)
    results = []
    sizes = widths(batch_sizes)
    if not sizes:
        raise typer.BadParameter("--batch-sizes needs at least one number, such as 1,1024")
    predicted = planned_rate(Artifact.open(artifact).plan)
    if predicted and predicted.batch_size not in sizes:
        sizes = (*sizes, predicted.batch_size)
    measured = {}
    for size in sizes:
        result = measure(engine, log, batch_size=size, seconds=seconds)
        measured[size] = result.samples_per_s
        results.append(asdict(result))
        console.print(
            f"B={size}: {result.median_ms:.3f} ms (p99 {result.p99_ms:.3f}), "
            f"{result.samples_per_s:,.0f} samples/s"
        )
    store = counters(engine)
    roles = {str(way): rate for way, rate in choose_roles(engine, log, batch_size=max(sizes)).items()}
    for way, rate in roles.items():
        console.print(f"stream of B={max(sizes)}, roles {way}: {rate:,.0f} samples/s")
    flows = {}
    if engine.data_flow == "asymmetric":
        flows = dict(choose_data_flow(engine, log, batch_size=max(sizes)))
        for flow, rate in flows.items():
            console.print(f"B={max(sizes)}, {flow} data flow: {rate:,.0f} samples/s")
    against = None
    if predicted:
        rate = measured[predicted.batch_size]
        against = {**asdict(predicted), "measured_samples_per_s": rate}
        console.print(
            f"The plan predicted {predicted.samples_per_s:,.0f} samples/s at B={predicted.batch_size} "
            f"({rate / predicted.samples_per_s:.2f}x measured)"
        )
    finish(
        as_json,
        {
            "predicted": against,
            "isa": engine.isa,
            "threads": engine.num_threads,
            "results": results,
            "roles": roles,
            "data_flows": flows,
            "store": store,
        },
    )


import screc.verbs.compare  # noqa: E402  (their verbs come after those above)
import screc.verbs.load  # noqa: E402
import screc.verbs.serving  # noqa: E402, F401


def main() -> None:
    """Entry point: one clear line on standard error and exit code 1 for every expected failure."""
    try:
        code = app(standalone_mode=False)  # of typer.Exit; Ctrl-C is one of 130
        if isinstance(code, int) and code:
            sys.exit(code)
    except typer.Exit as stop:  # older versions of typer raise it
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        print("screc: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SCREC_DEBUG"):
            raise
        show = getattr(error, "format_message", None)  # a wrong option: typer's own message
        text = show() if show else str(error) or type(error).__name__
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            text = "training needs torch: pip install 'screc[train]'"
        if isinstance(error, ModuleNotFoundError) and error.name in _SERVE_PACKAGES:
            text = "serving over the network needs more packages: pip install 'screc[serve]'"
        print(f"screc: error: {' '.join(text.split())}", file=sys.stderr)
        sys.exit(2 if show else 1)


if __name__ == "__main__":
    main()
