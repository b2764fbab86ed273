"""Makes the daemon: every part on its real socket, process, file and clock, connected to the others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import zmq

from subtitled import log
from subtitled.api.server import ApiServer
from subtitled.config.model_choice import configured_models
from subtitled.config.model_files import DEMO
from subtitled.config.schema import Config
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import disk_reserve_of, model_specs, plan_settings_of, policy_of
from subtitled.core.events import ModelsChanged
from subtitled.files.atomic_files import is_there
from subtitled.files.filesystem import DiskSpaceMonitor
from subtitled.hooks.dispatcher import HookDispatcher
from subtitled.inboxes.arrivals import FoundFile, InboxArrivals
from subtitled.network.auth import Authenticator
from subtitled.observability.metrics import Metrics
from subtitled.observability.metrics_http import MetricsServer
from subtitled.observability.monitor import Monitor
from subtitled.observability.systemd_status import SystemdStatus
from subtitled.observability.transition_log import TransitionLog
from subtitled.output.job_writer import JobWriter
from subtitled.ray.process import RayProcess
from subtitled.runtime.background import FolderThreads
from subtitled.runtime.mailbox import Mailbox
from subtitled.runtime.signals import Signals
from subtitled.server.dispatch import Dispatcher
from subtitled.server.hung_folders import FileChecks, HungFolders
from subtitled.server.loop import Server, ServerParts
from subtitled.server.ports import ZmqPoller
from subtitled.server.reconfiguration import Load, Reconfiguration
from subtitled.server.shutdown import Shutdown
from subtitled.server.state_folder import StateFolder
from subtitled.storage.database import lock_state_folder
from subtitled.storage.durability import Transactions
from subtitled.storage.store import Store
from subtitled.systemd.notify import SystemdNotifier
from subtitled.workers.local_listener import WorkerListener
from subtitled.workers.model_download import DownloadState, ModelDownloads
from subtitled.workers.supervisor import Supervisor


def build_server(load: Load, environ: Mapping[str, str], supervisor: Supervisor | None = None) -> Server:
    """Return a server that holds its state folder, database and sockets; raises SubtitledError where one is not available.

    `load` reads the configuration and finds the devices that it names; it is called again on SIGHUP.
    """
    clock = time.monotonic
    config, devices = load()
    _configure_log(config)
    supervisor = supervisor or Supervisor(environ)
    resources = ExitStack()
    state = Path(config.state.dir)
    # The folder of uploads too: the sandbox of a decoder process has the folders that exist at its start.
    (state / "uploads").mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = lock_state_folder(state)
    store = Store(str(state / "subtitled.sqlite"))
    metrics = Metrics()
    monitor = Monitor(metrics)
    monitor.default_model = config.model.name
    metrics_server = MetricsServer(config.listen.metrics, metrics, monitor.health)
    transition_log = TransitionLog(metrics)
    broker = Broker(policy_of(config), plan_settings=plan_settings_of(config))
    notifier = SystemdNotifier(environ)
    mailbox: Mailbox[FoundFile | Callable[[], None]] = Mailbox()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    authenticator = Authenticator(context)
    workers = WorkerListener(
        config,
        devices,
        context=context,
        authenticator=authenticator,
        call_back=mailbox.put,
        supervisor=supervisor,
        broker=broker,
        metrics=metrics,
        store=store,
        monitor=monitor,
    )
    ray = RayProcess(environ, workers.remote.keys) if workers.remote else None
    # Without a device on this host no worker on this host loads the model.
    model = ModelDownloads(
        config.model.name if devices else DEMO,
        model_specs(config) if devices else (),
        spawn=workers.spawn_download,
        on_change=lambda specs: dispatcher.dispatch(ModelsChanged(specs)),
    )
    workers.on_download = model.progressed
    broker.placement.configure(model.specs if devices else model_specs(config))
    poller = ZmqPoller()
    signals = Signals()
    shutdown = Shutdown(signals, clock)
    transactions = Transactions(
        store, lambda: shutdown.wait_for_space(poller, notifier, monitor.health.record_turn, api)
    )
    dispatcher = Dispatcher(broker, transactions, transition_log, clock)
    api = ApiServer(
        config,
        context,
        authenticator=authenticator,
        remote=workers.remote,
        store=store,
        broker=broker,
        dispatch=dispatcher.dispatch,
        call_in_loop=mailbox.put,
        metrics=metrics,
        languages=lambda: workers.languages,
    )
    api.stats.busy_s = monitor.busy_s
    api.stats.download_of = model.state_of if devices else lambda _: DownloadState()
    audio_samples = api.stats.audio_samples
    writer = JobWriter(
        store, transition_log, dispatch=dispatcher.dispatch, call_in_loop=mailbox.put, model=config.model.name
    )
    writer.models = lambda: arrivals.models
    api.handlers.on_edited = writer.write_edited
    hooks = HookDispatcher(
        config, environ, store, call_in_loop=mailbox.put, send_to_watchers=api.send_to_watchers
    )
    file_checks = FileChecks(dispatcher.dispatch, mailbox.put)
    dispatcher.connect(
        workers=workers,
        writer=writer,
        files=file_checks,
        api=api,
        hooks=hooks,
        audio_samples=audio_samples,
    )
    renamed = FolderThreads("renamed-files", mailbox.put)
    arrivals = InboxArrivals(
        config.inbox,
        store,
        mailbox.put,
        look_up=lambda path, mount, on_answer: renamed.of(mount).run(partial(is_there, path), on_answer),
    )
    arrivals.models = configured_models(config)
    api.stats.open_files = arrivals.open_files
    space = DiskSpaceMonitor(*disk_reserve_of(config))
    hung_folders = HungFolders(metrics)
    api.stats.hung_s = hung_folders.hung_s
    # Closed from the last to the first.
    for close in (
        partial(os.close, lock),
        signals.release,
        store.close,
        metrics_server.close,
        context.term,
        authenticator.stop,
        *((ray.close,) if ray else ()),
        workers.close,
        api.close,
        hooks.close,
        writer.close,
        supervisor.kill_all,
        arrivals.stop,
    ):
        resources.callback(close)
    return Server(
        ServerParts(
            clock=clock,
            poller=poller,
            signals=signals,
            mailbox=mailbox,
            store=store,
            broker=broker,
            dispatcher=dispatcher,
            shutdown=shutdown,
            reconfiguration=Reconfiguration(
                load,
                config,
                devices,
                broker=broker,
                dispatcher=dispatcher,
                workers=workers,
                model=model,
                api=api,
                hooks=hooks,
                arrivals=arrivals,
                space=space,
                cluster=ray,
                configure_log=_configure_log,
            ),
            supervisor=supervisor,
            workers=workers,
            model=model,
            api=api,
            writer=writer,
            files=file_checks,
            hooks=hooks,
            arrivals=arrivals,
            space=space,
            state_folder=StateFolder(state),
            hung_folders=hung_folders,
            notifier=notifier,
            monitor=monitor,
            status=SystemdStatus(notifier, broker, audio_samples.total),
            resources=resources,
        )
    )


def _configure_log(config: Config) -> None:
    log.remember_lines()
    log.configure(config.log.level, config.log.format, sys.stderr)
