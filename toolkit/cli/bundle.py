"""`cxr-edge bundle`: keygen, build, sign, inspect, verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.bundle_file import BUNDLE_FILE, written_to
from toolkit.cli.secret import read_secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_VARIABLE = "CXR_EDGE_KEY_PASSPHRASE"
_OPTION = "--passphrase-file"
_KEY_HELP = "File of the private key that signs (`cxr-edge bundle keygen`)."
_PASSPHRASE_HELP = f"File whose first line is the key's passphrase; or set {_VARIABLE}; else it is asked for."
_ABOUT_HELP = "Markdown for the model card: intended use, data, licences, known limits."
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("bundle", epilog=NOTICE)
def command() -> None:
    """Build, sign, inspect and verify the one-file bundle."""


@command.command("build", epilog=NOTICE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File to write. Default: NAME.cxr in the run's folder.")
@click.option("--name", default="", help="Name of the bundle. Default: the folder's.")
@click.option("--golden", type=click.IntRange(0, 100), default=6, show_default=True, help="How many golden X-rays.")
@click.option("--onnx", is_flag=True, help="Put the ONNX form of each model in, for TensorRT and ONNX Runtime.")
@click.option("--about", type=_FILE, help=_ABOUT_HELP)
@click.option("--key", type=_FILE, envvar="CXR_EDGE_KEY", help=_KEY_HELP + " Without: unsigned.")
@click.option("--passphrase-file", type=_FILE, help=_PASSPHRASE_HELP)
def build(
    *,
    run: Path,
    out: Path | None,
    name: str,
    golden: int,
    onnx: bool,
    about: Path | None,
    key: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Build a bundle from the folder RUN of a finished training run.

    It is signed where a key is given.
    """
    from toolkit.bundle_folder import bundle_from_run
    from toolkit.model_card import read_about

    sign_it = _signer(key, passphrase_file)
    bundle = bundle_from_run(run, out, name=name, golden=golden, onnx=onnx, about=read_about(about) if about else "")
    click.echo(sign_it(bundle))


@command.command("add-onnx", epilog=NOTICE)
@click.argument("bundle", type=BUNDLE_FILE)
@click.option("--out", type=_FILE, help="File to write. Default: BUNDLE itself, replaced as a whole.")
@click.option("--key", type=_FILE, envvar="CXR_EDGE_KEY", help=_KEY_HELP + " Without: unsigned.")
@click.option("--passphrase-file", type=_FILE, help=_PASSPHRASE_HELP)
def add_onnx(*, bundle: Path, out: Path | None, key: Path | None, passphrase_file: Path | None) -> None:
    """Add the ONNX form of each model to BUNDLE.

    For devices with TensorRT or ONNX Runtime. Made from its TFLite files, whose results it must give for the golden
    X-rays. The new bundle is another one: it has a new id, and no signature but that of --key.
    """
    from toolkit.bundle_onnx import add_onnx as add

    sign_it = _signer(key, passphrase_file)
    written = add(bundle, written_to(bundle, out))
    click.echo(sign_it(written))


@command.command("add-card", epilog=NOTICE)
@click.argument("bundle", type=BUNDLE_FILE)
@click.option("--evaluation", type=_FILE, help="evaluation.json of `cxr-edge evaluate --bundle BUNDLE`.")
@click.option("--about", type=_FILE, help=_ABOUT_HELP)
@click.option("--out", type=_FILE, help="File to write. Default: BUNDLE itself, replaced as a whole.")
@click.option("--key", type=_FILE, envvar="CXR_EDGE_KEY", help=_KEY_HELP + " Without: unsigned.")
@click.option("--passphrase-file", type=_FILE, help=_PASSPHRASE_HELP)
def add_card(
    *,
    bundle: Path,
    evaluation: Path | None,
    about: Path | None,
    out: Path | None,
    key: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Put a model card with figures by set and group into BUNDLE.

    It takes the place of the card that a training run puts in. The new bundle is another one: it has a new id, and no
    signature but that of --key.
    """
    from toolkit.model_card import add_card as add
    from toolkit.model_card import read_about, read_evaluation

    sign_it = _signer(key, passphrase_file)
    figures = read_evaluation(evaluation) if evaluation else {}
    text = read_about(about) if about else ""
    written = add(bundle, evaluation=figures, about=text, out=written_to(bundle, out))
    click.echo(sign_it(written))


@command.command("keygen", epilog=NOTICE)
@click.option("--out", type=_FILE, required=True, help="File for the private key (0600). Never overwritten.")
@click.option("--name", required=True, help="Of the key, for people: 'clinic 2026'.")
@click.option("--passphrase-file", type=_FILE, help=_PASSPHRASE_HELP)
@click.option("--no-passphrase", is_flag=True, help="The file is only as safe as its place.")
def keygen(*, out: Path, name: str, passphrase_file: Path | None, no_passphrase: bool) -> None:
    """Make a key that signs bundles.

    Its public half is printed, as an entry for the file of trusted keys.
    """
    from toolkit.keys import make_key

    ask = not no_passphrase
    secret = read_secret(
        passphrase_file, variable=_VARIABLE, prompt="Passphrase of the new key", ask=ask, option=_OPTION, twice=True
    )
    key = make_key(out, name=name, passphrase=secret.encode() if secret and ask else None)
    click.echo(key.to_toml(), nl=False)
    click.echo(
        f"{out}: the private key {key.id}. Keep a copy in a safe place. The lines above: its public half.", err=True
    )


@command.command("sign", epilog=NOTICE)
@click.argument("bundle", type=BUNDLE_FILE)
@click.option("--key", type=_FILE, required=True, envvar="CXR_EDGE_KEY", help=_KEY_HELP)
@click.option("--passphrase-file", type=_FILE, help=_PASSPHRASE_HELP)
@click.option("--out", type=_FILE, help="File to write. Default: BUNDLE itself, replaced as a whole.")
def sign(*, bundle: Path, key: Path, passphrase_file: Path | None, out: Path | None) -> None:
    """Sign BUNDLE.

    Signatures of other keys stay, so that keys can be exchanged one device after the other.
    """
    from firmware_bridge.bundle import open_bundle
    from firmware_bridge.trust import key_id
    from toolkit.bundle import sign_bundle

    private = private_key(key, passphrase_file)
    signed_file = sign_bundle(bundle, private, out=written_to(bundle, out))
    click.echo(signed_file)
    mine = key_id(private.public_key().public_bytes_raw())
    with open_bundle(signed_file) as signed:
        others = [one.key_id for one in signed.signatures if one.key_id != mine]
    click.echo(f"signed by {mine}, and by {', '.join(others) or 'nobody else'}", err=True)


def _signer(key: Path | None, passphrase_file: Path | None) -> Callable[[Path], Path]:
    """What signs a bundle in its place, or leaves it where no key is given. A wrong passphrase is told at once."""
    if key is None:
        return lambda bundle: bundle
    from toolkit.bundle import sign_bundle

    private = private_key(key, passphrase_file)
    return lambda bundle: sign_bundle(bundle, private)


def private_key(path: Path, passphrase_file: Path | None) -> Ed25519PrivateKey:
    """The key in `path`; its passphrase is asked for where nothing else tells it.

    Raises:
        ConfigError: no key, or no way to its passphrase.
    """
    from toolkit.keys import is_encrypted, read_key

    encrypted = is_encrypted(path)
    prompt = f"Passphrase of {path}"
    secret = (
        read_secret(passphrase_file, variable=_VARIABLE, prompt=prompt, ask=encrypted, option=_OPTION)
        if encrypted
        else None
    )
    return read_key(path, passphrase=secret.encode() if secret is not None else None)


@command.command("inspect", epilog=NOTICE)
@click.argument("bundle", type=BUNDLE_FILE)
@click.option("--card", is_flag=True, help="Print its model card instead.")
def inspect(*, bundle: Path, card: bool) -> None:
    """Print the manifest of BUNDLE as JSON.

    With its id, and the ids of the keys that signed it, which are not verified here.
    """
    from firmware_bridge.bundle import open_bundle

    if card:
        from toolkit.model_card import read_card

        click.echo(read_card(bundle), nl=False)
        return
    with open_bundle(bundle) as opened:
        more = {"id": opened.id, "signed_by": [one.key_id for one in opened.signatures]}
        click.echo(json.dumps({**more, **opened.manifest.to_json()}, ensure_ascii=False, indent=1))


@command.command("verify", epilog=NOTICE)
@click.argument("bundle", type=BUNDLE_FILE)
@click.option("--trusted-keys", type=_FILE, envvar="CXR_EDGE_TRUSTED_KEYS", help="One of these must have signed it.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the interpreter.")
def verify(*, bundle: Path, trusted_keys: Path | None, threads: int) -> None:
    """Check files, signature and golden results of BUNDLE here.

    Every file must be as listed, a trusted key must have signed (where trusted keys are given), and the golden X-rays
    must give the same results here.
    """
    from firmware_bridge.bundle import open_bundle
    from firmware_bridge.golden import require_golden
    from firmware_bridge.trust import read_trusted_keys

    trusted = read_trusted_keys(trusted_keys) if trusted_keys else None
    with open_bundle(bundle) as opened:
        if trusted is not None:
            key = opened.require_trust(trusted)
            click.echo(f"signed by {key.name} ({key.id})")
        outcomes = require_golden(opened, threads=threads)
        click.echo(f"{opened.manifest.name} {opened.id}")
    for outcome in outcomes:
        click.echo(f"  {outcome.file} {outcome.model}: {outcome.came:.4f} (expected {outcome.expected:.4f})")
    if not outcomes:
        click.echo(
            "warning: the bundle has no golden X-rays: nothing shows that it scores here as it did where it was made\n"
            "  do: build it with --golden 6",
            err=True,
        )
    click.echo(f"files as listed, {len(outcomes)} golden results reproduced. {NOTICE}")
