"""What is not as it should be in the folders that are named: runs, checkpoints, exports."""

from collections.abc import Mapping, Sequence

from tests.cli_errors.bad_arguments import TRAIN
from tests.cli_errors.runner import Says
from tests.cli_errors.workspace import LINKED

ON_DONE = "train --config=tiny.py --workdir=done"

FOUND: Mapping[str, Sequence[tuple[str, Says]]] = {
    "Folders that are no run": [
        ("sample --workdir=nowhere --prompt=a", ("no run at nowhere", "no such folder")),
        ("sample --workdir=fox.txt --prompt=a", ("no run at fox.txt", "it is a file")),
        ("sample --workdir=fox.txt/x --prompt=a", "no run at fox.txt/x"),
        ("sample --workdir=notes --prompt=a", ("no run at notes", "no config.json")),
        ("sample --workdir=done/checkpoints --prompt=a", ("no run at", "no config.json")),
        ("sample --workdir='a\0b' --prompt=a", "NUL"),
        ("sample --workdir=" + "x" * 3000 + " --prompt=a", "x" * 300),
        ("sample --workdir='two\nlines' --prompt=a", "no such folder"),
        ("runs 'two\nlines'", "no folder two"),
        ("sample --workdir=. --prompt=a", ("no run at .", "no config.json")),
        ("evaluate --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("score --workdir=nowhere fox.txt", ("no run at nowhere", "no such folder")),
        ("inspect --workdir=nowhere --text=a", ("no run at nowhere", "no such folder")),
        ("verify --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("verify --workdir=notes", ("no run at notes", "no config.json")),
        ("replay --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("replay --workdir=fox.txt", ("no run at fox.txt", "it is a file")),
        ("replay --workdir=done", "nothing to replay"),
        ("runs nowhere", "no folder nowhere"),
        ("runs fox.txt", "no folder fox.txt"),
        ("sample --workdir=unfinished --prompt=a", ("unfinished has no checkpoint", "train it")),
        ("score --workdir=unfinished fox.txt", ("unfinished has no checkpoint", "train it")),
        ("inspect --workdir=unfinished --text=a", ("unfinished has no checkpoint", "train it")),
        ("evaluate --workdir=unfinished", ("unfinished has no checkpoint", "train it")),
        ("verify --workdir=unfinished", ("unfinished has no metrics", "train it")),
        ("verify --workdir=metrics_empty", ("metrics_empty has no metrics", "train it")),
    ],
    "Folders that cannot be trained in": [
        ("train --config=tiny.py --workdir=fox.txt", ("fox.txt is not a folder", "--workdir")),
        ("train --config=tiny.py --workdir=fox.txt/run", "fox.txt/run"),
        ("train --config=tiny.py --workdir=/proc/run", "cannot write to /proc/run"),
        ("train --config=tiny.py --workdir=notes", ("notes exists and is not a run", "--workdir")),
        ("train --config=tiny.py --workdir=notes --fresh", "notes exists and is not a run"),
        ("train --config=tiny.py --workdir=fox.txt --fresh", "fox.txt is not a folder"),
        ("train --config=tiny.py --workdir=lost.txt", "lost.txt"),
        ("train --config=tiny.py --workdir=config_gone", ("no config.json", "--workdir")),
        ("train --config=tiny.py --workdir=" + "x" * 3000, "File name too long: xxx"),
    ],
    "Another run in the folder": [
        (
            f"{ON_DONE} --config.seed=2",
            ("config.seed is 1 there and 2 here", "a run keeps one config", "--fresh"),
        ),
        (
            f"{ON_DONE} --config.data.corpus=fox.txt",
            ("config.data.corpus is 'synthetic:", "there and '", "fox.txt' here", "--fresh"),
        ),
        (f"{ON_DONE} --config.model.layers=gru", ("('lstm',) there and ('gru',) here", "--fresh")),
        (f"{ON_DONE} --config.data.loader=crops", "'chunks' there and 'crops' here"),
        (f"{ON_DONE} --config.split.kind=none", "'tail' there and 'none' here"),
        (f"{ON_DONE} --config.optimizer.schedule=cosine", "'constant' there and 'cosine' here"),
        (f"{ON_DONE} --config.optimizer.epsilon_hat=true", "False there and True here"),
        (f"{ON_DONE} --config.optimizer.learning_rate=0.1", "0.001 there and 0.1 here"),
        (f"{ON_DONE} --config.train.epochs=1", "config.train.epochs is 2 there and 1 here"),
        (
            f"{ON_DONE} --config.seed=2 --config.train.epochs=1",
            "config.seed is 1 there and 2 here; config.train.epochs is 2 there and 1 here",
        ),
        (f"{ON_DONE} --init_from=other", "config.train.init_from is '' there"),
        (
            "train --config=tiny.py --workdir=fingerprint_other",
            ("is not the one that fingerprint_other was started on", "--fresh"),
        ),
        ("evaluate --workdir=fingerprint_other", "does not name the text that checkpoint 38"),
        ("verify --workdir=fingerprint_other", "does not name the text that checkpoint 38"),
        ("evaluate --workdir=done --corpus=fox.txt", "fox.txt is not the text that done was"),
        ("verify --workdir=done --corpus=fox.txt", "fox.txt is not the text that done was"),
        (
            "compare done --corpus=fox.txt --mode=sliding --targets=3",
            "fox.txt is not the text that done was",
        ),
        ("report done --corpus=fox.txt --out=x.html", "fox.txt is not the text that done was"),
        ("evaluate --workdir=done --corpus=nowhere", "'nowhere' is not a registered corpus"),
        ("evaluate --workdir=done --corpus=", "argument --corpus: the path is empty"),
    ],
    "Starting from another run": [
        (f"{TRAIN} --init_from=nowhere", ("cannot start from", "nowhere", "no such folder")),
        (f"{TRAIN} --init_from=fox.txt", ("cannot start from", "it is a file")),
        (f"{TRAIN} --init_from=notes", ("cannot start from", "no config.json")),
        (f"{TRAIN} --init_from=unfinished", ("cannot start from", "no checkpoint")),
        (f"{TRAIN} --init_from=other", ("hidden_size is 7", "write --config.model.hidden_size=7")),
        (f"{TRAIN} --init_from=best_damaged", ("cannot start from", "checkpoint 38 is damaged")),
        (f"{TRAIN} --config.train.init_from=nowhere", ("cannot start from", "nowhere")),
        (f"{ON_DONE} --init_from=done", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=./notes/../done", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=elsewhere", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=done --fresh", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=nowhere --fresh", ("cannot start from", "no such folder")),
        (
            f"{ON_DONE} --init_from=other --fresh",
            ("cannot start from", "config.model.hidden_size is 7"),
        ),
        (f"{ON_DONE} --fresh --config.data.corpus=empty.txt", "empty.txt' is empty"),
        (f"{TRAIN} --branch_from=nowhere", ("no run at nowhere", "no such folder")),
        (f"{TRAIN} --branch_from=fox.txt", "it is a file"),
        (f"{TRAIN} --branch_from=notes", "no config.json"),
        (f"{TRAIN} --branch_from=unfinished", ("no checkpoint to start from", "are none")),
        (f"{TRAIN} --branch_from=other", ("is another run", "hidden_size is 7 there and")),
        (f"{TRAIN} --branch_from=exported_other", "is an exported model, not a run"),
        (
            f"{TRAIN} --branch_from=done --config.optimizer.schedule=cosine",
            ("no checkpoint to start from", "up to step 0"),
        ),
        (f"{TRAIN} --branch_from=done --config.train.keep=5", "at least 40, for at most 50"),
        (f"{ON_DONE} --branch_from=done", ("the same run", "--workdir")),
        (f"{ON_DONE} --branch_from=nowhere --fresh", ("no run at nowhere", "no such folder")),
    ],
    "Checkpoints": [
        (
            "sample --workdir=done --prompt=a --checkpoint=7",
            ("'7'", "best, latest or one of 19, 38"),
        ),
        ("sample --workdir=done --prompt=a --checkpoint=first", ("'first'", "19, 38")),
        ("sample --workdir=done --prompt=a --checkpoint=", ("''", "19, 38")),
        ("sample --workdir=done --prompt=a --checkpoint=-1", ("'-1'", "19, 38")),
        ("sample --workdir=done --prompt=a --checkpoint=³", ("'³'", "19, 38")),
        ("inspect --workdir=done --text=a --checkpoint=7", ("'7'", "19, 38")),
        ("evaluate --workdir=done --checkpoint=best,latest", ("'best,latest'", "19, 38")),
        ("sample --workdir=best_damaged --prompt=a", ("checkpoint 38 is damaged", "valid", "19")),
        ("evaluate --workdir=best_damaged", ("checkpoint 38 is damaged", "valid", "19")),
        ("sample --workdir=best_note_damaged --prompt=a", ("38 is damaged", "valid", "19")),
        ("evaluate --workdir=best_note_damaged", ("38 is damaged", "valid", "19")),
        ("sample --workdir=only_one_and_damaged --prompt=a", ("38 is damaged", "valid")),
        ("sample --workdir=all_damaged --prompt=a", "is damaged"),
        ("sample --workdir=all_damaged --prompt=a --checkpoint=latest", "38 is damaged"),
        ("sample --workdir=all_damaged --prompt=a --checkpoint=19", "19 is damaged"),
        (
            "train --config=tiny.py --workdir=all_damaged",
            ("no checkpoint of all_damaged can be used", "38", "19", "--fresh"),
        ),
        (
            "train --config=tiny.py --workdir=all_damaged --config.train.epochs=3",
            ("no checkpoint of all_damaged can be used", "38", "19", "--fresh"),
        ),
        (
            "train --config=tiny.py --workdir=note_without_tally --config.train.epochs=3",
            "checkpoint 38",
        ),
        ("sample --workdir=note_without_loss --prompt=a", "checkpoint 38"),
        ("evaluate --workdir=note_of_other_arrays", "checkpoint 38"),
        (
            "sample --workdir=of_another_model --prompt=a",
            ("config.model.hidden_size is 7 there and 6 here", "restore the file"),
        ),
        ("sample --workdir=symbols_more --prompt=a", ("it has 8 instead of 4", "restore the file")),
        ("sample --workdir=checkpoints_a_file --prompt=a", "checkpoint"),
        ("train --config=tiny.py --workdir=checkpoints_a_file", "checkpoints"),
        ("replay --workdir=fault_damaged", ("3 is damaged", "contents.json")),
    ],
    "Exports": [
        ("export", ("arguments are required", "--workdir")),
        ("export done", ("arguments are required", "--workdir")),
        ("export --workdir=done --to", "argument --to: expected one argument"),
        ("export --workdir=done --to=", ("argument --to: invalid choice: ''", "safetensors")),
        (
            "export --workdir=done --to=onnx",
            ("argument --to: invalid choice: 'onnx'", "safetensors"),
        ),
        ("export --workdir=done --to=html --out=done", "done is a folder: give a file name"),
        (
            "export --workdir=done --to=html --no_baselines --out=fox.txt",
            ("fox.txt already exists", "another file"),
        ),
        (
            "export --workdir=done --to=html --no_baselines --out=fox.txt/x",
            "cannot write to fox.txt/x",
        ),
        ("export --workdir=done --to=html --out='a\0b'", "NUL byte"),
        (
            "export --workdir=done --to=html --precision=int4",
            ("argument --precision: invalid choice: 'int4'", "bfloat16"),
        ),
        ("export --workdir=done --precision=int8", "--precision is for --to=html"),
        ("export --workdir=done --no_baselines", "--no_baselines is for --to=html"),
        (
            "export --workdir=done --to=html --no_baselines --corpus=fox.txt",
            "--corpus is not read with --no_baselines",
        ),
        ("export --workdir=done --to=html --corpus=nowhere.txt", "nowhere.txt"),
        ("export --workdir=done --out", "argument --out: expected one argument"),
        ("export --workdir=done --out=", "argument --out: the path is empty"),
        ("export --workdir=done --json", "unknown argument --json"),
        ("export --workdir=done --config.seed=1", "--config.seed=1 does not apply"),
        ("export --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("export --workdir=unfinished", ("unfinished has no checkpoint", "train it")),
        ("export --workdir=best_damaged", ("checkpoint 38 is damaged", "valid", "19")),
        ("export --workdir=done --checkpoint=7", ("'7'", "19, 38")),
        ("export --workdir=done --weights=best", ("'best'", "average", "raw")),
        ("export --workdir=done --weights=average", ("weights='average'", "available: raw")),
        ("export --workdir=done --out=fox.txt", "cannot write to fox.txt"),
        ("export --workdir=done --out=fox.txt/x", "cannot write to fox.txt/x"),
        ("export --workdir=done --out=/proc/x", "cannot write to /proc/x"),
        ("export --workdir=done --out='a\0b'", "NUL byte"),
        ("export --workdir=done --out=" + "x" * 3000, "xxx"),
        ("export --workdir=done --out=done", "done is a run: name another folder"),
        ("export --workdir=done --out=other", "other is a run: name another folder"),
        ("export --workdir=other --out=exported", "exported/config.json already exists"),
        (
            "export --workdir=done --checkpoint=19 --out=exported",
            ("exported/model.safetensors already exists", "another folder"),
        ),
        ("export --workdir=exported --checkpoint=19", ("'19'", "was exported from 38")),
        ("sample --workdir=exported --prompt=a --checkpoint=19", ("'19'", "exported from 38")),
        (
            "sample --workdir=exported --prompt=a --weights=average",
            "exported has no weights='average'; available: raw",
        ),
        *[
            (f"{command}exported", "exported is an exported model, not a run")
            for command in (
                "train --config=tiny.py --workdir=",
                "train --config=tiny.py --fresh --workdir=",
                "verify --workdir=",
                "compare ",
                "report ",
            )
        ],
        ("replay --workdir=exported", "is an exported model, not a run"),
        (f"{TRAIN} --init_from=exported_other", "config.model.hidden_size is 7"),
        (f"{TRAIN} --init_from=weights_flipped", ("cannot start from", "model.safetensors")),
        *[
            (f"sample --workdir={export} --prompt=a", (f"{export}/model.safetensors", says))
            for export, says in {
                "weights_torn": "not fully covered",
                "weights_flipped": "is damaged",
                "weights_garbage": "is damaged",
                "weights_a_folder": "cannot read",
                "weights_a_link": "is a link",
            }.items()
        ],
        ("sample --workdir=weights_gone --prompt=a", "neither checkpoints/ nor model.safetensors"),
        ("sample --workdir=weights_of_another --prompt=a", "weights_of_another/config.json is not"),
        ("sample --workdir=exported_config_gone --prompt=a", "it has no config.json"),
        ("sample --workdir=exported_config_torn --prompt=a", ("config.json is damaged", "export")),
        ("sample --workdir=exported_vocabulary_gone --prompt=a", "it has no vocabulary.json"),
        ("sample --workdir=another_config --prompt=a", "another_config/config.json is not the one"),
        ("sample --workdir=another_symbol --prompt=a", "another_symbol/vocabulary.json is not"),
    ],
    "Damaged files of a run": [
        *[
            (f"sample --workdir={run} --prompt=a", f"{run}/config.json")
            for run in (
                "config_empty",
                "config_garbage",
                "config_torn",
                "config_nested",
                "config_a_list",
                "config_a_folder",
                "config_unknown",
                "config_wrong_type",
                "config_no_section",
            )
        ],
        *[
            (f"evaluate --workdir={run}", f"{run}/vocabulary.json")
            for run in (
                "vocabulary_empty",
                "vocabulary_garbage",
                "vocabulary_nested",
                "vocabulary_null",
                "symbols_number",
                "symbols_none",
                "symbols_unsorted",
                "fingerprint_number",
            )
        ],
        ("sample --workdir=vocabulary_gone --prompt=a", "vocabulary.json"),
        *[
            (f"train --config=tiny.py --workdir={run} --config.train.epochs=3", f"{run}/run.json")
            for run in (
                "run_garbage",
                "run_nested",
                "run_a_list",
                "sessions_number",
                "sessions_of_numbers",
                "sessions_without",
                "sessions_environment",
            )
        ],
        *[
            (f"verify --workdir={run}", f"{run}/run.json")
            for run in (
                "run_garbage",
                "run_nested",
                "run_a_list",
                "sessions_number",
                "sessions_of_numbers",
                "sessions_without",
                "sessions_environment",
            )
        ],
        *[
            (
                command.format(run=run),
                f"{run}/metrics.jsonl, line 1, is not a valid metrics row",
            )
            for command in (
                "train --config=tiny.py --workdir={run} --config.train.epochs=3",
                "verify --workdir={run}",
            )
            for run in (
                "metrics_garbage",
                "metrics_nested",
                "metrics_a_list",
                "metrics_missing_fields",
                "step_zero",
                "step_text",
                "loss_text",
                "hash_missing",
            )
        ],
        *[
            (f"{command}={run}", (f"{run}/", "is a link"))
            for run in LINKED
            for command in (
                "sample --prompt=a --workdir",
                "evaluate --workdir",
                "verify --workdir",
                "train --config=tiny.py --workdir",
                "train --config=tiny.py --fresh --workdir",
            )
        ],
    ],
}
