"""``specprune view`` from start to end: the nodes of a demo, the link, the server."""
from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import tempfile
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from rich.console import Console

from ..bringup import (
    FASTDDS_PROFILES,
    check_namespace,
    fastdds_variable,
    find_params_file,
    launch_nodes,
    localhost_setting,
    node_command,
    prepare_environment,
    stop_on_sigterm,
)
from ..errors import ConfigurationError, SpecpruneError
from ..processes import ProcessGroup
from ..share import share_dir
from .app import make_app

ADDRESS = "127.0.0.1"  # never another: whoever reaches the page can tune the policy
_LOOK_S = 0.5
_CLOSE_S = 2.0  # that answers under way may take at the end


def run_view(args: argparse.Namespace) -> int:
    """``specprune view``; ``args`` as made by :func:`specprune_ros.view.add_arguments`."""
    stop_on_sigterm()
    check_namespace(args.namespace)
    console = Console(highlight=False, soft_wrap=True)
    run = _run_demo if args.demo else _run_beside
    with _listen(args.port) as listener:
        try:
            return run(args, console, listener)
        except KeyboardInterrupt:
            return 0  # how it is meant to end


def _listen(port: int) -> socket.socket:
    """The socket of the page; first of all, so that a port that is taken costs no time."""
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise ConfigurationError(f"port {port} of {ADDRESS} cannot be used ({error.strerror}); "
                                 "choose another with --port, or --port 0") from error


def _run_beside(args: argparse.Namespace, console: Console, listener: socket.socket) -> int:
    """Beside nodes that run already, with their settings of DDS unless the user chose others."""
    os.environ.setdefault(*localhost_setting(os.environ))
    os.environ.setdefault(fastdds_variable(), str(share_dir() / FASTDDS_PROFILES))
    return _serve(args, console, listener, lambda: None)


def _run_demo(args: argparse.Namespace, console: Console, listener: socket.socket) -> int:
    """With nodes of its own."""
    params_file = find_params_file(args.params_file)
    log_dir = Path(tempfile.mkdtemp(prefix="specprune_view_"))
    os.environ.setdefault("ROS_LOG_DIR", str(log_dir))
    lock = prepare_environment(os.environ)
    failed = True
    try:
        with ProcessGroup(log_dir) as group:
            group.start({spec.name: node_command(spec, params_file, parameters, args.namespace)
                         for spec, parameters in launch_nodes(vars(args),
                                                              namespace=args.namespace)})
            status = _serve(args, console, listener, group.check,
                            "The nodes are starting; that takes some seconds.")
        failed = False
        return status
    except KeyboardInterrupt:
        failed = False
        raise
    except SpecpruneError as error:
        raise SpecpruneError(f"{error}\nThe logs of the nodes are in {log_dir}") from error
    finally:
        if lock is not None:
            lock.close()
        if not failed:
            shutil.rmtree(log_dir, ignore_errors=True)


def _serve(args: argparse.Namespace, console: Console, listener: socket.socket,
           check: Callable[[], None], absent: str = "") -> int:
    # Imported here: only now is the environment of DDS complete.
    from ..ros.view_link import ViewLink
    from ..ros.view_state import parameter_rows, settable

    with ViewLink(args.node, args.namespace, absent=absent) as link:
        def check_all() -> None:
            check()
            link.check()

        app = make_app(link, parameter_rows(), settable)
        asyncio.run(_until_done(app, args, console, listener, check_all))
    return 0


async def _until_done(app: web.Application, args: argparse.Namespace, console: Console,
                      listener: socket.socket, check: Callable[[], None]) -> None:
    # Without shutdown_timeout: aiohttp 3.8, which is Humble's, drops every connection over it.
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        url = f"http://{ADDRESS}:{listener.getsockname()[1]}/"
        console.print(f"{url} (ROS domain {os.environ.get('ROS_DOMAIN_ID') or 0}); Ctrl-C stops")
        console.file.flush()
        if args.open:
            webbrowser.open(url)
        end = None if args.seconds is None else time.monotonic() + args.seconds
        while end is None or time.monotonic() < end:
            check()
            await asyncio.sleep(_LOOK_S)
    finally:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(runner.cleanup(), _CLOSE_S)
