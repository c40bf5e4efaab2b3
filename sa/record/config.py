"""The file config.yaml of a run: the configuration that the run computes."""

import json
from pathlib import Path
from typing import Any

from sa.record.files import RecordError, make_folder, write_text
from sa.record.identity import current, run_id


def write_config(root: Path | str, config: dict[str, Any]) -> Path:
    """Write config.yaml of a run that is still to be computed; return the run's folder.

    An older config.yaml may differ in settings that change no result, such as ``dataset.root``; it
    is replaced.
    """
    folder = Path(root).expanduser() / "runs" / run_id(config)
    make_folder(folder, root)
    path, text = folder / "config.yaml", config_text(config)
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text, sync=False)
    return folder


def config_text(config: dict[str, Any]) -> str:
    """Return a configuration as YAML."""
    import yaml

    dumper = yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper
    plain = json.loads(json.dumps(config))  # no tuples, and no object twice: no YAML anchors
    text: str = yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run with the names of today; {} if there is none."""
    import yaml

    path = folder / "config.yaml"
    remedy = f"delete {folder} and repeat the command that made it"
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    try:
        config = yaml.load(path.read_bytes(), loader) or {}
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise RecordError(f"{path}: this is not YAML; {remedy}") from error
    if not isinstance(config, dict):
        raise RecordError(f"{path}: expected lines KEY: VALUE; {remedy}")
    named: dict[str, Any] = current(config)
    named.pop("full", None)  # older records hold the settings of size=full
    return named
