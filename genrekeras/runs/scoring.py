"""What a run leaves when its model is scored: reports, pictures, the card, a page that tells all."""

import os
import sys

import genrekeras as gk
from genrekeras.runs import options
from genrekeras import reports
from genrekeras.utils.io import atomic_write


def evaluate(run, **more):
    """As `runner.Run.evaluate`."""
    model = gk.load_model(run.model_file)
    if model.card:
        return  # it was done: training empties the card, and a model with one is saved last
    splits = {split.name: split for split in run.splits_to_score()}
    reports = _tracks_of_test(model, splits)
    if "validation" in splits:
        found = gk.evaluation.calibrate(model, splits["validation"], **options.WHOLE_TRACKS)
        before = {"validation_tracks": found.before, **reports}
        reports = {f"{name}_uncalibrated": scores for name, scores in before.items()}
        reports["validation_tracks"] = found.after
        reports |= _tracks_of_test(model, splits)
    if not run.flags.spectrograms:  # of images there is but one crop
        reports |= {name: gk.evaluation.evaluate(model, split) for name, split in splits.items()}
    model.card = {**_card(run, reports), **more, **model.card}
    run.save_json("card.json", dict(model.card))
    reports.model_card(model, run.path("model_card.md"))
    save_reports(run, reports)
    with atomic_write(run.model_file) as temporary:
        model.save(temporary)
    if run.flags.wandb:
        run.wandb.finish()
        print(f"The W&B run is in {run.path('wandb')}; `wandb sync` uploads one that was offline.")


def save_reports(run, reports):
    """As `runner.Run.save_reports`."""
    print()
    if not reports:
        print("Nothing was scored: there is no validation clip and no test clip.")
    for name, scores in reports.items():
        scores.to_json(run.path(f"{name}.json"))
        if "uncalibrated" in name:
            continue
        scores.plot(run.path(f"confusion_{name}.png"))
        if run.flags.wandb and name == f"{scores.split}_tracks":
            run.wandb.log_report(scores)
        print(scores)
    run.save_json("metrics.json", {name: scores.figures() for name, scores in reports.items()})
    _save_misclassified(run, reports)
    run.save_config()
    reports.html(reports.load_run(run.folder), run.path("reports.html"))


def _tracks_of_test(model, splits):
    if "test" not in splits:
        return {}
    return {"test_tracks": gk.evaluation.evaluate(model, splits["test"], **options.WHOLE_TRACKS)}


def _card(run, reports):
    """What the model is to tell of itself; no path of this machine."""
    hidden = ("data_dir", "spectrograms", "output", "wandb")
    flags = {key: value for key, value in vars(run.flags).items() if value is not None and key not in hidden}
    return {
        "data": {key: value for key, value in run.config["data"].items() if key != "broken"},
        "training": {
            "script": os.path.basename(sys.argv[0]),
            "flags": flags,
            **_how(run.config),
            "seconds": run.config["seconds"],
            "backend": run.config["backend"],
            "versions": run.config["versions"],
        },
        "scores": [scores.figures() for name, scores in reports.items() if "uncalibrated" not in name],
    }


def _how(config):
    """How the model was trained; by epochs, unless it says another method."""
    if "method" in config:
        return {"method": config["method"]}
    optimizer = config["optimizer"]
    optimizer = optimizer.get("inner_optimizer", {}).get("config", optimizer)  # in 16 bits one scales the loss
    return {
        "epochs": config["epochs"],
        "epochs_fixed": config.get("epochs_fixed", False),
        "batch_size": config["batch_size"],
        "optimizer": optimizer["name"],
        "learning_rate": float(f"{optimizer['learning_rate']:.6g}"),
    }


def _save_misclassified(run, reports):
    """Those on the last split."""
    for split in run.splits_to_score()[-1:]:
        scores = reports[f"{split.name}_tracks" if f"{split.name}_tracks" in reports else split.name]
        table = gk.evaluation.misclassified(scores, split)
        with atomic_write(run.path("misclassified.csv")) as temporary:
            table.to_csv(temporary, index=False, errors="surrogateescape")
