"""One download by yt-dlp, in a separate process: `python -m subtitled.download.process`.

It may write to the folder of its job only, start no program, and connect to allowed addresses only. The file is
resumed where an earlier process stopped, if its server supports that.
"""

from __future__ import annotations

import mimetypes
import os
import resource
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from subtitled.config.url_rules import UrlError, check_url, parse_network
from subtitled.download.connections import CheckedConnections
from subtitled.download.messages import DownloadReport, DownloadSettings
from subtitled.errors import SubtitledError
from subtitled.runtime import sandbox
from subtitled.runtime.processes import become_child

MEMORY_BYTES = 2 << 30
"""Limit of the address space; a page without end reaches it and fails."""
MAX_FILES = 256
REPORT_S = 0.5
NAME = "media"
"""Name of the downloaded file, without its suffix: that of the site becomes the job's name later."""
MIB = 2**20
_READABLE = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/run/systemd/resolve",
)
"""What name resolution and TLS read."""


class DownloadRefusedError(SubtitledError):
    """A download that the rules of the server do not allow."""


def main() -> int:
    """Read the settings, download, and report the outcome."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=DownloadSettings)
    become_child(settings.parent_pid, signal.SIGXFSZ)
    os.umask(0o077)
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not mix with the reports
    try:
        final = _Download(settings, output).run()
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        final = DownloadReport(error=_line(str(error) or repr(error)))
    _send(output, final)
    return 0


class _Download:
    """The download of one address."""

    def __init__(self, settings: DownloadSettings, output: int) -> None:
        self._settings = settings
        self._output = output
        self._reported_at = 0.0
        networks = [network for text in settings.allowed_networks if (network := parse_network(text))]
        self._connections = CheckedConnections(networks)

    def run(self) -> DownloadReport:
        """Return the final report; raises SubtitledError."""
        settings = self._settings
        Path(settings.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        _prepare_environment(settings.folder)
        import yt_dlp  # before the sandbox: its files may be in a home folder
        from yt_dlp.utils import DownloadError, YoutubeDLError

        mimetypes.init()  # its files, such as /etc/mime.types, cannot be read later

        protection = sandbox.enter(
            (*_READABLE, *_certificates()),
            memory_bytes=MEMORY_BYTES,
            allows_unix_sockets=True,
            writable=(settings.folder,),
            allows_network=True,
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (settings.max_bytes + MIB, settings.max_bytes + MIB))
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._connections.install()
        self._send(DownloadReport(missing=tuple(protection.missing())))
        try:
            info = self._extract(yt_dlp)
        except DownloadRefusedError:
            raise
        except (DownloadError, YoutubeDLError, OSError, MemoryError) as error:
            if self._connections.refused:
                raise DownloadRefusedError(self._connections.refused) from error
            if isinstance(error, MemoryError):
                raise DownloadRefusedError(
                    f"its page takes more than {MEMORY_BYTES // MIB} MiB of memory; name the media file itself"
                ) from error
            raise DownloadRefusedError(_line(_plain(str(error)))) from error
        return self._finished(info)

    def _extract(self, yt_dlp: Any) -> dict[str, Any]:
        download = self

        class Downloader(yt_dlp.YoutubeDL):  # type: ignore[misc]
            """Checks each page, and each file before it is downloaded."""

            def extract_info(self, url: str, *args: Any, **keywords: Any) -> Any:
                download.check_page(url)
                return super().extract_info(url, *args, **keywords)

            def process_ie_result(self, ie_result: dict[str, Any], *args: Any, **keywords: Any) -> Any:
                if ie_result.get("_type") in {"playlist", "multi_video"}:
                    raise DownloadRefusedError("it is a playlist; submit the address of one recording")
                return super().process_ie_result(ie_result, *args, **keywords)

            def process_info(self, info_dict: dict[str, Any]) -> Any:
                download.check_media(info_dict)
                return super().process_info(info_dict)

        with Downloader(self._options()) as downloader:
            info = downloader.extract_info(self._settings.url, download=True)
        if not isinstance(info, dict):
            raise DownloadRefusedError("the site returned no media")
        return info

    def _options(self) -> dict[str, Any]:
        return {
            "format": "bestaudio/best",
            "paths": {"home": self._settings.folder},
            "outtmpl": {"default": f"{NAME}.%(ext)s"},
            "noplaylist": True,
            "continuedl": True,
            "overwrites": False,
            "retries": 3,
            "fragment_retries": 3,
            "extractor_retries": 1,
            "socket_timeout": max(1.0, self._settings.stall_s / 3),
            "cachedir": False,
            "proxy": "",
            "fixup": "never",
            "hls_prefer_native": True,
            "external_downloader": {"default": "native"},
            "enable_file_urls": False,
            "updatetime": False,
            "no_color": True,
            "noprogress": True,
            "quiet": True,
            "no_warnings": True,
            "logger": _Silent(),
            "progress_hooks": [self._on_progress],
        }

    def check_page(self, url: str) -> None:
        """Raise DownloadRefusedError for a page on a host that clients may not name, also after a redirect."""
        try:
            check_url(url, self._settings.allowed_hosts)
        except UrlError as error:
            raise DownloadRefusedError(str(error)) from None

    def check_media(self, info: dict[str, Any]) -> None:
        """Raise DownloadRefusedError for media beyond the limits."""
        settings = self._settings
        if info.get("is_live") or info.get("live_status") in {"is_live", "is_upcoming", "post_live"}:
            raise DownloadRefusedError("it is a live stream; submit it when it has ended")
        duration = info.get("duration")
        if isinstance(duration, int | float) and duration > settings.max_s:
            raise DownloadRefusedError(
                f"it is {duration / 3600:.1f} hours long; the limit is {settings.max_s / 3600:g} (url.max_hours)"
            )
        size = info.get("filesize")
        if isinstance(size, int | float) and size > settings.max_bytes:
            self._too_large(int(size))

    def _on_progress(self, progress: dict[str, Any]) -> None:
        received, total = (max(0, progress.get(name) or 0) for name in ("downloaded_bytes", "total_bytes"))
        if max(received, total) > self._settings.max_bytes:
            self._too_large(max(received, total))
        if time.monotonic() - self._reported_at >= REPORT_S:
            self._reported_at = time.monotonic()
            self._send(DownloadReport(received_bytes=int(received), total_bytes=int(total)))

    def _too_large(self, size: int) -> NoReturn:
        raise DownloadRefusedError(
            f"its file has {size} bytes or more; the limit is {self._settings.max_bytes}"
            " (url.max_mb, uploads.max_file_mb on the server)"
        )

    def _finished(self, info: dict[str, Any]) -> DownloadReport:
        complete = [
            path
            for path in Path(self._settings.folder).glob(f"{NAME}.*")
            if not path.name.endswith((".part", ".ytdl", ".temp"))
        ]
        if not complete:
            raise DownloadRefusedError("the site returned no media file")
        return DownloadReport(
            file=complete[0].name,
            title=_encodable(str(info.get("title") or ""))[:500],
            language=_encodable(str(info.get("language") or ""))[:32],
        )

    def _send(self, report: DownloadReport) -> None:
        _send(self._output, report)


class _Silent:
    """Discards the messages of yt-dlp; errors are raised besides."""

    def debug(self, message: str) -> None:
        """Ignore a message."""

    info = warning = error = debug


def _certificates() -> list[str]:
    """Return the files and folders of certificates that the TLS library reads, also those of SSL_CERT_FILE."""
    found = ssl.get_default_verify_paths()
    places = (found.cafile, found.capath, found.openssl_cafile, found.openssl_capath)
    return [str(Path(place).resolve()) for place in places if place]


def _prepare_environment(folder: str) -> None:
    """Leave out what would make libraries use a proxy, other HTTP stacks, or files elsewhere."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ |= {"HOME": folder, "TMPDIR": folder, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder}
    os.environ["YTDLP_NO_PLUGINS"] = "1"
    # Only Python's own sockets are checked.
    for module in ("curl_cffi", "websockets", "requests", "urllib3", "brotli", "brotlicffi"):
        sys.modules[module] = None  # type: ignore[assignment]
    os.chdir(folder)


def _plain(message: str) -> str:
    """Return an error of yt-dlp without its prefix and its request to report a bug."""
    return (
        message.removeprefix("ERROR: ").partition("; please report this issue")[0].partition(" (caused by")[0]
    )


def _line(text: str) -> str:
    return " ".join(_encodable(text).split())[:500]


def _encodable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which pages have in JSON and which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _send(output: int, report: DownloadReport) -> None:
    os.write(output, msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
