"""The configuration in effect, its worker slots, and its reload."""

from __future__ import annotations

from collections.abc import Callable

from subtitled import log
from subtitled.asr.cuda import Device
from subtitled.config.model_choice import configured_models
from subtitled.config.schema import Config
from subtitled.core import events as ev
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import (
    disk_reserve_of,
    endpoints_of,
    merge,
    model_specs,
    plan_settings_of,
    policy_of,
    readable_folders,
)
from subtitled.core.records import Role
from subtitled.core.states import WorkerState
from subtitled.errors import ConfigError
from subtitled.inboxes.arrivals import InboxArrivals
from subtitled.server.dispatch import Dispatcher
from subtitled.server.ports import ClientApi, DiskSpace, JobHooks, RemoteWorkerStarter
from subtitled.workers.local_listener import WorkerListener
from subtitled.workers.model_download import ModelDownloads

_log = log.get()
Load = Callable[[], tuple[Config, list[Device]]]
"""Reads the configuration and finds the devices that it names; raises ConfigError."""


class Reconfiguration:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self,
        load: Load,
        config: Config,
        devices: list[Device],
        *,
        broker: Broker,
        dispatcher: Dispatcher,
        workers: WorkerListener,
        model: ModelDownloads,
        api: ClientApi,
        hooks: JobHooks,
        arrivals: InboxArrivals,
        space: DiskSpace,
        cluster: RemoteWorkerStarter | None,
        configure_log: Callable[[Config], None],
    ) -> None:
        """Use the configuration with which the daemon was built."""
        self._load = load
        self.config = config
        self.devices = devices
        self._broker = broker
        self._dispatcher = dispatcher
        self._workers = workers
        self._model = model
        self._api = api
        self._hooks = hooks
        self._arrivals = arrivals
        self._space = space
        self._cluster = cluster
        self._configure_log = configure_log

    def start(self) -> None:
        """Open the slots, and start the workers of a cluster."""
        self.fill_slots()
        if self._cluster is not None:
            self._cluster.reconfigure(self.config)

    def fill_slots(self) -> None:
        """Add the slots that the configuration has, remove the others."""
        wanted = dict(self._workers.slots(has_model=self._model.is_done))
        known = self._broker.worker_table.workers
        for slot in [slot for slot, worker in known.items() if slot not in wanted and not worker.is_remote]:
            self._dispatcher.dispatch(ev.SlotRemoved(slot))
        for slot, role in wanted.items():
            if slot not in known or known[slot].state is WorkerState.STOPPED:
                self._dispatcher.dispatch(ev.SlotAdded(slot, role))

    def reload(self) -> None:
        """Read the configuration again; an invalid one is rejected as a whole, and the old one stays in effect."""
        try:
            found, devices = self._load()
        except ConfigError as error:
            _log.error(log.CONFIG_REJECTED, faults=error.faults)
            return
        config, kept = merge(self.config, found)
        before, after = endpoints_of(self.config), endpoints_of(config)
        changed = [slot for slot in before.keys() & after.keys() if before[slot] != after[slot]]
        if readable_folders(config) != readable_folders(
            self.config
        ):  # the sandbox of a process never gets wider
            workers = self._broker.worker_table.workers
            changed += [
                slot
                for slot, worker in workers.items()
                if worker.role is Role.PREPARE and not worker.is_remote
            ]
        self.config, self.devices = config, devices
        self._configure_log(config)
        self._broker.set_policy(policy_of(config))
        self._broker.plan_settings = plan_settings_of(config)
        self._workers.reconfigure(config, devices)
        if self._cluster is not None:
            self._cluster.reconfigure(config)
        self._space.reconfigure(*disk_reserve_of(config))
        self._api.reconfigure(config)
        self._hooks.reconfigure(config)
        self._arrivals.models = configured_models(config)
        self._arrivals.reconfigure(config.inbox)
        if devices:
            self._model.configure(model_specs(config))
        self._dispatcher.dispatch(ev.ModelsChanged(self._model.specs if devices else model_specs(config)))
        for slot in changed:  # filled again when its process has ended
            self._dispatcher.dispatch(ev.SlotRemoved(slot))
        self.fill_slots()  # first, so that no slot is reset that the configuration does not have any more
        for slot in list(self._broker.worker_table.workers):
            self._dispatcher.dispatch(ev.SlotReset(slot))
        _log.info(log.CONFIG_LOADED, needs_restart=kept)
