// Structures on canvases: drag to turn, scroll or pinch to zoom, arrow keys, + and −, 0 to start again.
"use strict";
(() => {
  const ELEMENTS = JSON.parse(document.getElementById("elements").textContent);
  const BOND = 1.12; // longest bond over the sum of covalent radii
  const START = turned([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 0.45, 0.3);

  const radius = (element) => 0.2 + 0.3 * element[2]; // of a drawn atom, Å
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const mid = (a, b) => a.map((x, i) => (x + b[i]) / 2);
  const hex = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const css = (rgb) => `rgb(${rgb.map(Math.round).join()})`;
  const mix = (a, b, share) => a.map((x, i) => x + (b[i] - x) * share);

  // The rows of a rotation after turning by dx about the screen's vertical and dy about its horizontal.
  function turned([x, y, z], dx, dy) {
    const spin = (a, b, t) => a.map((v, i) => v * Math.cos(t) + b[i] * Math.sin(t));
    [x, z] = [spin(x, z, dx), spin(z, x, -dx)];
    return [x, spin(y, z, -dy), spin(z, y, dy)];
  }

  // Atoms that have a place, bonds by covalent radii, and the edges of the cell, about their middle.
  function scene({ numbers, positions, cell }) {
    const corner = (i) => [0, 1, 2].map((k) => cell.reduce((sum, v, n) => sum + (i >> n & 1) * v[k], 0));
    const corners = cell ? [0, 1, 2, 3, 4, 5, 6, 7].map(corner) : [];
    const atoms = numbers
      .map((z, i) => ({ at: positions[i], element: ELEMENTS[z] }))
      .filter((atom) => atom.at.every((x) => x !== null));
    const points = atoms.map((atom) => atom.at).concat(corners);
    const middle = [0, 1, 2].map((k) => {
      const along = points.map((p) => p[k]);
      return points.length ? (Math.min(...along) + Math.max(...along)) / 2 : 0;
    });
    const centred = (p) => p.map((x, k) => x - middle[k]);
    atoms.forEach((atom) => { atom.at = centred(atom.at); });
    const bonds = [];
    atoms.forEach((a, i) => atoms.slice(0, i).forEach((b) => {
      const longest = BOND * (a.element[2] + b.element[2]);
      const apart = a.at.map((x, k) => x - b.at[k]);
      if (dot(apart, apart) < longest * longest) bonds.push([a, b]);
    }));
    const edges = [];
    corners.forEach((p, i) => [1, 2, 4].forEach((bit) => {
      if (!(i & bit)) edges.push([centred(p), centred(corners[i | bit])]);
    }));
    const reach = Math.max(1.5, ...points.map((p) => Math.hypot(...centred(p)))) + 0.4;
    return { atoms, bonds, edges, reach };
  }

  function view(canvas) {
    const { atoms, bonds, edges, reach } = scene(JSON.parse(canvas.dataset.structure));
    let rotation = START;
    let zoom = 1;
    let pinch = 0;
    const fingers = new Map();

    function draw() {
      const pen = canvas.getContext("2d");
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      pen.scale(ratio, ratio);
      pen.lineCap = "round";
      const style = getComputedStyle(document.documentElement);
      const [ground, line] = ["--panel", "--quiet"].map((name) => hex(style.getPropertyValue(name).trim()));
      const scale = zoom * Math.min(width, height) / 2 / reach;
      const seen = (p) => rotation.map((row) => dot(row, p));
      const place = ([x, y]) => [width / 2 + scale * x, height / 2 - scale * y];
      const faded = (colour, depth) => css(mix(colour, ground, 0.6 * Math.min(1, Math.max(0, (reach - depth) / 2 / reach))));
      const items = [];
      const stroke = (a, b, colour, thickness) => items.push([mid(a, b)[2], (depth) => {
        pen.strokeStyle = faded(colour, depth);
        pen.lineWidth = thickness;
        pen.beginPath();
        pen.moveTo(...place(a));
        pen.lineTo(...place(b));
        pen.stroke();
      }]);
      edges.forEach(([a, b]) => stroke(seen(a), seen(b), line, 1));
      bonds.forEach((pair) => {
        const [p, q] = pair.map((atom) => seen(atom.at));
        const length = Math.hypot(...p.map((x, k) => q[k] - x)) || 1;
        [[p, q, pair[0].element], [q, p, pair[1].element]].forEach(([from, to, element]) => {
          const surface = mix(from, to, Math.min(0.5, 0.85 * radius(element) / length));
          stroke(surface, mid(p, q), mix(hex(element[1]), [0, 0, 0], 0.2), Math.max(2, 0.18 * scale));
        });
      });
      atoms.forEach(({ at, element }) => {
        const p = seen(at);
        items.push([p[2] + 0.01, (depth) => {
          const [x, y] = place(p);
          const r = Math.max(2.5, radius(element) * scale);
          const shade = pen.createRadialGradient(x - r / 3, y - r / 3, r / 10, x, y, r);
          const colour = hex(element[1]);
          shade.addColorStop(0, faded(mix(colour, [255, 255, 255], 0.55), depth));
          shade.addColorStop(0.6, faded(colour, depth));
          shade.addColorStop(1, faded(mix(colour, [0, 0, 0], 0.3), depth));
          pen.fillStyle = shade;
          pen.strokeStyle = faded(mix(colour, [0, 0, 0], 0.55), depth);
          pen.lineWidth = 0.75;
          pen.beginPath();
          pen.arc(x, y, r, 0, 2 * Math.PI);
          pen.fill();
          pen.stroke();
        }]);
      });
      items.sort((a, b) => a[0] - b[0]).forEach(([depth, paint]) => paint(depth));
    }

    function change(dx, dy, factor) {
      rotation = turned(rotation, dx, dy);
      zoom = Math.min(20, Math.max(0.3, zoom * factor));
      draw();
    }
    const KEYS = {
      ArrowLeft: () => change(-0.15, 0, 1), ArrowRight: () => change(0.15, 0, 1),
      ArrowUp: () => change(0, -0.15, 1), ArrowDown: () => change(0, 0.15, 1),
      "+": () => change(0, 0, 1.2), "=": () => change(0, 0, 1.2), "-": () => change(0, 0, 1 / 1.2),
      0: () => { [rotation, zoom] = [START, 1]; draw(); },
    };
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS) || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      KEYS[event.key]();
    });
    canvas.addEventListener("dblclick", KEYS[0]);
    canvas.addEventListener("wheel", (event) => { // only once it has been chosen: else the page scrolls
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      change(0, 0, Math.exp(-event.deltaY / 500));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      pinch = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const [x, y] = fingers.get(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 1) change((event.clientX - x) / 120, (event.clientY - y) / 120, 1);
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        const apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
        change(0, 0, pinch ? apart / pinch : 1);
        pinch = apart;
      }
    });
    ["pointerup", "pointercancel"].forEach((name) => canvas.addEventListener(name, (event) => {
      fingers.delete(event.pointerId);
    }));
    ["(prefers-color-scheme: dark)", "print"].forEach((query) => matchMedia(query).addEventListener("change", draw));
    new ResizeObserver(draw).observe(canvas);
  }

  // The structure as a file in extended XYZ, for any other program.
  function save(canvas) {
    const { numbers, positions, cell, pbc } = JSON.parse(canvas.dataset.structure);
    const lattice = cell ? `Lattice="${cell.flat().join(" ")}" pbc="${pbc.map((is) => (is ? "T" : "F")).join(" ")}" ` : "";
    const rows = numbers.map((z, i) => [ELEMENTS[z][0], ...positions[i].map((x) => x ?? "nan")].join(" "));
    const text = [numbers.length, `${lattice}Properties=species:S:1:pos:R:3`, ...rows, ""].join("\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "chemical/x-xyz" }));
    link.download = `${canvas.dataset.name}.xyz`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  document.querySelectorAll("canvas[data-structure]").forEach((canvas) => {
    view(canvas);
    const button = canvas.parentElement.querySelector("button");
    button.hidden = false;
    button.addEventListener("click", () => save(canvas));
  });
})();
