// Fetches the newest frames of the tiles that can be seen: each at a bounded rate, a few at a time.

const AT_A_TIME = 3; // a browser has six connections to a host, and one holds the states
const TICK_MS = 50;

export class Frames {
  /** The tiles by id, and the least time between two frames of one of them. */
  constructor(tiles, intervalMs) {
    this.tiles = tiles;
    this.intervalMs = intervalMs;
    this.viewer = null;
    this.numOpen = 0;
    this.visible = new Set();
    this.watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) this.visible.add(entry.target);
        else this.visible.delete(entry.target);
      }
    });
    setInterval(() => this.fetchDue(), TICK_MS);
  }

  start(viewer) {
    this.viewer = viewer;
    for (const tile of this.tiles.values()) this.watcher.observe(tile.node);
  }

  stop() {
    this.viewer = null;
  }

  fetchDue() {
    if (this.viewer === null || document.hidden) return;
    const now = performance.now();
    const due = [...this.tiles.values()]
      .filter((tile) => this.visible.has(tile.node) && tile.wantsFrame && !tile.isFetching)
      .filter((tile) => now - tile.fetchedAt >= this.intervalMs)
      .sort((one, other) => one.fetchedAt - other.fetchedAt);
    for (const tile of due.slice(0, AT_A_TIME - this.numOpen)) this.fetch(tile, now);
  }

  async fetch(tile, now) {
    tile.isFetching = true;
    tile.fetchedAt = now;
    this.numOpen += 1;
    const query = new URLSearchParams({ camera: tile.id, viewer: this.viewer, after: tile.frame });
    try {
      const found = await fetch(`/cameras/frame?${query}`, { signal: AbortSignal.timeout(10000) });
      if (found.status === 200) {
        await tile.draw(await found.blob(), JSON.parse(found.headers.get("X-Frame")));
      }
    } catch {
      // The next one is asked for in a moment; the state does not depend on it.
    } finally {
      tile.isFetching = false;
      this.numOpen -= 1;
    }
  }
}
