"use strict";
// Nothing here is needed to read the page: it sorts tables, reads curves out and keeps players together.

const numberOf = (cell) => {
  if (!cell || cell.dataset.sort === undefined) return null;
  if (cell.dataset.sort === "inf") return Infinity;
  return cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort);
};

const compareCells = (a, b) => {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x === null || y === null) return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return x === y ? 0 : x < y ? -1 : 1;
};

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (down ? -1 : 1) * compareCells(a.cells[column], b.cells[column]));
      table.tBodies[0].append(...rows);
    });
  });
}

const reveal = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();

const readout = document.createElement("div");
readout.id = "readout";
readout.hidden = true;
readout.setAttribute("aria-hidden", "true");
document.body.append(readout);

const say = (text, event) => {
  readout.textContent = text;
  readout.hidden = false;
  const left = Math.min(event.pageX + 14, scrollX + innerWidth - readout.offsetWidth - 8);
  readout.style.left = `${left}px`;
  readout.style.top = `${event.pageY + 16}px`;
};

const points = (path) => {
  path.points ??= [...path.getAttribute("d").matchAll(/[ML]([-\d.]+) ([-\d.]+)/g)].map((m) => [Number(m[1]), Number(m[2])]);
  return path.points;
};

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

for (const svg of document.querySelectorAll("svg.spark[data-range]")) {
  const [low, high] = svg.dataset.range.split(" ").map(Number);
  const seconds = Number(svg.closest("[data-seconds]").dataset.seconds);
  const path = svg.querySelector("path.course") ?? svg.querySelector("path.steps");
  svg.addEventListener("pointermove", (event) => {
    if (!path) return;
    const box = svg.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const near = points(path).reduce((a, b) => (Math.abs(b[0] - share * 1000) < Math.abs(a[0] - share * 1000) ? b : a));
    const value = low + ((96 - near[1]) / 92) * (high - low);
    say(`${clock(share * seconds)}   ${Number(value.toPrecision(4))}`, event);
  });
  svg.addEventListener("pointerleave", () => { readout.hidden = true; });
}

for (const svg of document.querySelectorAll("svg.panel")) {
  const paths = [...svg.querySelectorAll("path.video, path.median")].filter((path) => path.querySelector("title"));
  const names = new Map(paths.map((path) => [path, path.querySelector("title").textContent]));
  paths.forEach((path) => path.querySelector("title").remove());
  let lit = null;
  const quench = () => { lit?.classList.remove("lit"); lit = null; readout.hidden = true; };
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = null;
    for (const path of paths) for (const [index, [x, y]] of points(path).entries()) {
      const distance = Math.hypot(x - at.x, y - at.y);
      if (distance < 14 && (!best || distance < best.distance)) best = { path, index, distance };
    }
    quench();
    if (!best) return;
    lit = best.path;
    lit.classList.add("lit");
    say(names.get(lit), event);
  });
  svg.addEventListener("pointerleave", quench);
}

for (const group of document.querySelectorAll(".players")) {
  const videos = [...group.querySelectorAll("video")];
  if (videos.length < 2) continue;
  const bar = document.createElement("div");
  bar.className = "together";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Play together";
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.001, value: 0 });
  slider.setAttribute("aria-label", "Position in all videos");
  bar.append(button, slider);
  group.before(bar);
  const first = videos[0];
  button.addEventListener("click", () => {
    if (videos.some((video) => !video.paused)) return videos.forEach((video) => video.pause());
    videos.forEach((video) => { video.currentTime = first.currentTime; video.muted = true; video.play(); });
  });
  const label = () => { button.textContent = videos.some((video) => !video.paused) ? "Pause" : "Play together"; };
  videos.forEach((video) => { video.addEventListener("play", label); video.addEventListener("pause", label); });
  first.addEventListener("timeupdate", () => {
    if (first.duration) slider.value = first.currentTime / first.duration;
    for (const video of videos.slice(1)) {
      if (!video.paused && Math.abs(video.currentTime - first.currentTime) > 0.15) video.currentTime = first.currentTime;
    }
  });
  slider.addEventListener("input", () => {
    if (first.duration) videos.forEach((video) => { video.currentTime = slider.value * first.duration; });
  });
}
