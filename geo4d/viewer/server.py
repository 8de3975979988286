"""The interactive viewer: a 4D point cloud with time slider, camera pyramids and confidence threshold (viser)."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time

import numpy as np

from geo4d.errors import InputError
from geo4d.scene import Reconstruction

logger = logging.getLogger(__name__)


def serve(
    reconstruction: Reconstruction,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    max_points: int = 20_000,
    stop: threading.Event | None = None,
) -> None:
    """Shows the result at http://host:port until interrupted (or until `stop` is set).

    Only the page that this server itself serves, and programs outside of browsers, can connect; see
    `geo4d.viewer.gate`. Raises InputError if the port is taken, if nothing can listen at this address, or if
    `max_points` is below 1.
    """
    import viser

    from geo4d.viewer.gate import gate

    if max_points < 1:
        raise InputError(f"The number of points a frame must be at least 1; got {max_points}.")
    _check_address(host, port)
    with gate(host) as opened:
        server = viser.ViserServer(host=host, port=port, verbose=False)
    if not opened:
        server.stop()
        raise InputError(
            f"Foreign pages cannot be kept out of viser {viser.__version__}; install viser 1.1, or use --html."
        )
    server.scene.set_up_direction("-y")
    stage = _Stage(server, reconstruction, max_points)
    logger.info("Look at http://%s:%d (Ctrl-C to stop)", host, port)
    stop = stop or threading.Event()
    try:
        while not stop.is_set():
            stage.tick()
            time.sleep(0.02)
    finally:
        server.stop()


class _Stage:
    """The scene and the controls of one server."""

    def __init__(self, server: object, reconstruction: Reconstruction, max_points: int) -> None:
        self.reconstruction, self.server = reconstruction, server
        gui = server.gui  # type: ignore[attr-defined]
        last = max(reconstruction.num_frames - 1, 1)
        self.time = gui.add_slider("Frame", min=0, max=last, step=1, initial_value=0)
        self.play = gui.add_checkbox("Play", initial_value=False)
        self.rate = gui.add_slider("Frames a second", min=1, max=60, step=1, initial_value=12)
        self.threshold = gui.add_slider("Confidence above", min=0.0, max=2.0, step=0.05, initial_value=0.2)
        self.size = gui.add_slider("Point size", min=0.2, max=5.0, step=0.1, initial_value=1.0)
        self.everything = gui.add_checkbox("All frames at once", initial_value=False)
        self.cameras = gui.add_checkbox("Cameras", initial_value=True)
        self.stride = max(1, int(np.ceil(np.sqrt(np.prod(reconstruction.depth.shape[1:]) / max_points))))
        self.unit = _typical_depth(reconstruction)
        self.state: tuple[object, ...] = ()
        self.moved = time.monotonic()
        self._add_cameras()

    def tick(self) -> None:
        """Advances the time when playing and redraws what has changed."""
        now = time.monotonic()
        if self.play.value and now - self.moved > 1 / self.rate.value:
            self.time.value = (int(self.time.value) + 1) % self.reconstruction.num_frames
            self.moved = now
        state = (self.time.value, self.threshold.value, self.size.value, self.everything.value, self.cameras.value)
        if state != self.state:
            self.state = state
            self._draw()

    def _draw(self) -> None:
        frame = min(int(self.time.value), self.reconstruction.num_frames - 1)
        frames = range(self.reconstruction.num_frames) if self.everything.value else [frame]
        clouds = [self._cloud(i) for i in frames]
        points, colours = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
        pixel = self.unit / self.reconstruction.intrinsics[0, 0, 0] * self.stride
        self.server.scene.add_point_cloud(  # type: ignore[attr-defined]
            "/points",
            points.astype(np.float32),
            colours,
            point_size=float(pixel * self.size.value),
            point_shape="square",
        )
        for i, handle in enumerate(self.handles):
            handle.visible = bool(self.cameras.value) and (self.everything.value or i == frame or i % 8 == 0)

    def _cloud(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        s = self.stride
        keep = self.reconstruction.valid[frame] & (self.reconstruction.confidence[frame] >= self.threshold.value)
        keep = np.asarray(keep)[::s, ::s]
        points = self.reconstruction.points_world(frame)[::s, ::s][keep]
        return points, np.asarray(self.reconstruction.images[frame])[::s, ::s][keep]

    def _add_cameras(self) -> None:
        r = self.reconstruction
        height, width = r.depth.shape[1:]
        self.handles = []
        for frame in range(r.num_frames):
            from scipy.spatial.transform import Rotation

            x, y, z, w = Rotation.from_matrix(r.cam_to_world[frame, :3, :3]).as_quat()
            handle = self.server.scene.add_camera_frustum(  # type: ignore[attr-defined]
                f"/cameras/{frame}",
                fov=float(2 * np.arctan(height / 2 / r.intrinsics[frame, 1, 1])),
                aspect=width / height,
                scale=0.08 * self.unit,
                wxyz=(w, x, y, z),
                position=tuple(r.cam_to_world[frame, :3, 3]),
                image=np.asarray(r.images[frame])[::2, ::2],
            )
            self.handles.append(handle)


def _check_address(host: str, port: int) -> None:
    """Raises InputError where a server cannot listen: viser alone would quietly take another port."""
    if not 1 <= port <= 65535:
        raise InputError(f"The port must lie between 1 and 65535; got {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed server's port may be waiting
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"Port {port} of {host} is in use; choose another with --port.") from error
        raise InputError(
            f"Nothing can listen at {host}:{port} ({error.strerror}); choose --host and --port."
        ) from error


def _typical_depth(reconstruction: Reconstruction) -> float:
    finite = np.asarray(reconstruction.depth[0])[np.asarray(reconstruction.valid[0])]
    return float(np.median(finite)) if len(finite) else 1.0
