"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const ink = { accent: "#1f5fc4", test: "#b4540a", faint: "#8593a6", grid: "#e9edf2", axis: "#b9c3d0", good: "#2f7d4a" };
  const costNames = { params: "parameters", bytes: "bytes of model.safetensors", flops: "FLOPs of one text" };
  const tip = document.getElementById("tip");

  // ---- building nodes: text goes in as text, never as markup
  const svg = (name, attributes = {}, ...inside) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  };
  const html = (name, attributes = {}, ...inside) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  };

  // ---- numbers
  const compact = (number) => {
    for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (number >= 0.9995 * size) return String(Number((number / size).toPrecision(3))) + unit;
    }
    return String(Math.round(number));
  };
  const times = (ratio) => (ratio >= 100 ? Math.round(ratio).toLocaleString("en") : Number(ratio.toPrecision(3))) + "x";
  const percent = (share) => (100 * share).toFixed(1) + " %";
  const sizeOf = (bytes) => {
    for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
      if (bytes >= 0.9995 * size) return String(Number((bytes / size).toPrecision(3))) + " " + unit;
    }
    return bytes + " bytes";
  };
  const retention = (score, teacher) => (teacher > 0 ? percent(score / teacher) + " of the teacher" : "");
  const command = (trial) => data.command.replace("TRIAL", trial);

  // ---- scales
  const ticksBetween = (low, high, wanted) => {
    const raw = (high - low) / Math.max(1, wanted);
    const magnitude = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((each) => each * magnitude).find((each) => each >= raw);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at += 1) found.push(at === 0 ? 0 : at * step);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  };
  const logTicks = (low, high, wanted) => {
    const all = [];
    for (let decade = Math.floor(low); decade <= Math.ceil(high); decade += 1) {
      for (const times of [1, 2, 5]) {
        const at = decade + Math.log10(times);
        if (at >= low && at <= high) all.push({ at, value: times * 10 ** decade, whole: times === 1 });
      }
    }
    const decades = all.filter((tick) => tick.whole);
    return all.length <= wanted ? all : decades.length >= 2 ? decades : all.filter((_, place) => place % Math.ceil(all.length / wanted) === 0);
  };
  const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

  function frame(width, height, margin, xTicks, yTicks, x, y, names) {
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": names.label });
    for (const tick of yTicks) {
      root.append(svg("line", { x1: margin.left, x2: width - margin.right, y1: y(tick.at), y2: y(tick.at), stroke: ink.grid }));
      root.append(svg("text", { x: margin.left - 8, y: y(tick.at) + 4, "text-anchor": "end" }, tick.text));
    }
    const right = width - margin.right;
    for (const tick of xTicks) {
      root.append(svg("line", { x1: x(tick.at), x2: x(tick.at), y1: margin.top, y2: height - margin.bottom, stroke: ink.grid }));
      const near = x(tick.at) > right - 14 ? "end" : "middle";
      root.append(svg("text", { x: x(tick.at), y: height - margin.bottom + 17, "text-anchor": near }, tick.text));
    }
    root.append(svg("line", { x1: margin.left, x2: right, y1: height - margin.bottom, y2: height - margin.bottom, stroke: ink.axis }));
    if (names.x) root.append(svg("text", { x: (margin.left + right) / 2, y: height - 6, "text-anchor": "middle" }, names.x));
    if (names.y) root.append(svg("text", { x: margin.left - 44, y: 13 }, names.y));
    return root;
  }

  // ---- the tooltip
  function showTip(node, left, top) {
    tip.replaceChildren(node);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const widest = document.documentElement.clientWidth;
    const x = Math.max(8, Math.min(left + 16, widest - box.width - 8));
    const above = top - box.height - 16;
    const y = above > 4 ? above : top + 20;
    tip.style.left = x + window.scrollX + "px";
    tip.style.top = y + window.scrollY + "px";
  }
  const hideTip = () => {
    tip.hidden = true;
  };

  // ---- the front
  const byTrial = new Map(data.trials.map((trial) => [trial.trial, trial]));
  const members = data.trials.filter((trial) => trial.front).sort((one, other) => one.x - other.x || one.trial - other.trial);
  const confirmed = new Map(data.confirmed.map((each) => [each.trial, each]));
  // Students that learnt nothing would press the front against the teacher's line: the picture begins a little below the best student.
  const floor = Math.min(data.teacher.validation, Math.max(...data.trials.map((trial) => trial.y))) - 0.12;
  const wide = data.trials.some((trial) => trial.y < floor - 0.03);
  const view = { near: wide, test: data.confirmed.length > 0, part: "", selected: data.selected };

  function words(trial) {
    const told = confirmed.get(trial.trial);
    const lines = [
      `${data.quality} ${trial.y.toFixed(4)} on validation` + (data.teacher.validation > 0 ? `, ${retention(trial.y, data.teacher.validation)}` : ""),
      `${compact(trial.params)} parameters, ${times(data.teacher.params / trial.params)} smaller; ` +
        `${sizeOf(trial.bytes)}; ${compact(trial.flops)} FLOPs a text`,
    ];
    if (told) {
      lines.push(
        `test ${told.test.toFixed(4)} (95 %: ${told.ci95[0].toFixed(3)} to ${told.ci95[1].toFixed(3)}), ${told.seeds} seed${told.seeds > 1 ? "s" : ""}` +
          (told.control === null ? "" : `; without a teacher ${told.control.toFixed(4)}`),
      );
      if (told.tied.length) lines.push(`tied with trial ${told.tied.join(", ")}`);
    }
    return lines;
  }
  const title = (trial) => `Trial ${trial.trial}: ${trial.family} + ${trial.strategy}`;

  function tipOf(trial) {
    const box = html("div", {}, html("b", {}, title(trial)));
    for (const line of words(trial)) box.append(html("div", {}, line));
    for (const [part, knobs] of trial.recipe) box.append(html("div", {}, `${part}: ${knobs}`));
    const code = html("code");
    for (const word of command(trial.trial).split(" ")) code.append(html("span", { class: "word" }, word), " ");
    box.append(code);
    return box;
  }

  function commandBox(text) {
    return html("div", { class: "command" }, html("code", {}, text), html("button", { type: "button", class: "copy" }, "Copy"));
  }

  function showDetail() {
    const box = document.getElementById("detail");
    const trial = byTrial.get(view.selected);
    box.hidden = !trial;
    if (!trial) return;
    const list = html("dl");
    for (const [part, knobs] of trial.recipe) list.append(html("dt", {}, part), html("dd", {}, knobs));
    const lines = words(trial).map((line) => html("div", {}, line));
    box.replaceChildren(html("h3", {}, title(trial)), ...lines, list, commandBox(command(trial.trial)));
    list.style.marginTop = "8px";
  }

  let redrawn = () => {}; // marks the selected student in the picture

  function drawFront() {
    const place = document.getElementById("front-chart");
    if (!data.trials.length) {
      place.replaceChildren(html("p", { class: "empty" }, "No trial is complete yet: there is nothing to draw."));
      return;
    }
    const width = Math.max(280, place.clientWidth);
    const height = Math.round(Math.min(500, Math.max(340, width * 0.46)));
    const margin = { left: 54, right: 30, top: 26, bottom: 46 };
    const teacher = view.test ? data.teacher.test : data.teacher.validation;
    const lefts = [...data.trials.map((trial) => trial.x), data.teacher.x].map((each) => Math.log10(Math.max(1, each)));
    const spread = Math.max(...lefts) - Math.min(...lefts) || 1;
    const x = linear(Math.min(...lefts) - 0.05 * spread, Math.max(...lefts) + 0.06 * spread, margin.left, width - margin.right);
    const heights = [...data.trials.map((trial) => trial.y), teacher, data.teacher.validation];
    if (view.test) for (const each of data.confirmed) heights.push(...each.ci95, ...(each.control === null ? [] : [each.control]));
    let low = Math.min(...heights, teacher - 0.025);
    let high = Math.max(...heights);
    if (view.near) low = Math.max(low, floor);
    const room = 0.05 * (high - low);
    low -= room;
    high += 1.6 * room;
    const y = linear(low, high, height - margin.bottom, margin.top);
    const span = [Math.min(...lefts) - 0.05 * spread, Math.max(...lefts) + 0.06 * spread];
    const xTicks = logTicks(span[0], span[1], width / 90).map((tick) => ({ at: tick.at, text: compact(tick.value) }));
    const scale = ticksBetween(low, high, height / 60);
    const yTicks = scale.found.map((at) => ({ at, text: at.toFixed(Math.max(2, scale.digits)) }));
    const root = frame(width, height, margin, xTicks, yTicks, x, y, {
      label: `The front: ${data.quality} against ${costNames[data.cost]}`,
      x: `${costNames[data.cost]} (log scale)`,
      y: view.test ? `${data.quality}: test in colour, validation faint` : `${data.quality} on validation`,
    });
    const clip = svg("clipPath", { id: "plot" }, svg("rect", { x: margin.left, y: margin.top, width: width - margin.left - margin.right, height: height - margin.top - margin.bottom }));
    const plot = svg("g", { "clip-path": "url(#plot)" });
    root.append(svg("defs", {}, clip), plot);

    const right = width - margin.right;
    for (const [from, to, colour] of [[0, 0.01, "#d9efe0"], [0.01, 0.02, "#ecf7ef"]]) {
      plot.append(svg("rect", { x: margin.left, width: right - margin.left, y: y(teacher - from), height: y(teacher - to) - y(teacher - from), fill: colour }));
    }
    plot.append(svg("line", { x1: margin.left, x2: right, y1: y(teacher), y2: y(teacher), stroke: ink.good, "stroke-width": 1.5 }));

    const chosen = (trial) => !view.part || trial.family === view.part || trial.strategy === view.part;
    for (const trial of data.trials) {
      if (trial.front || trial.y < low) continue;
      const lit = view.part && chosen(trial);
      plot.append(
        svg("circle", { cx: x(Math.log10(Math.max(1, trial.x))), cy: y(trial.y), r: lit ? 4 : 3, fill: lit ? ink.accent : ink.faint, "fill-opacity": lit ? 0.75 : view.part ? 0.18 : 0.4 }),
      );
    }
    const at = (trial) => [x(Math.log10(Math.max(1, trial.x))), y(trial.y)];
    if (members.length > 1) {
      const path = members.map((trial, place) => (place ? `H${at(trial)[0]}V${at(trial)[1]}` : `M${at(trial).join(" ")}`)).join("");
      plot.append(svg("path", { d: path, fill: "none", stroke: ink.accent, "stroke-width": 2, "stroke-opacity": view.test ? 0.25 : 0.85, "stroke-linejoin": "round" }));
    }
    const marks = svg("g", { "clip-path": "url(#plot)" });
    for (const trial of members.filter((each) => each.y >= low)) {
      const [cx, cy] = at(trial);
      const faded = view.test ? 0.35 : chosen(trial) ? 1 : 0.3;
      marks.append(svg("circle", { cx, cy, r: 6, fill: ink.accent, stroke: "#fff", "stroke-width": 2, opacity: faded }));
    }
    if (view.test) for (const told of data.confirmed) drawConfirmed(marks, told, at(byTrial.get(told.trial))[0], y);
    const diamond = [x(Math.log10(Math.max(1, data.teacher.x))), y(teacher)];
    marks.append(svg("path", { d: `M${diamond[0]} ${diamond[1] - 8}l8 8l-8 8l-8 -8z`, fill: ink.good, stroke: "#fff", "stroke-width": 1.5 }));
    const ring = svg("circle", { r: 10, fill: "none", stroke: "#17202b", "stroke-width": 1.5, visibility: "hidden" });
    marks.append(ring);
    root.append(marks);
    const bandHigh = Math.abs(y(0) - y(0.01));
    // Beside the plot: inside, a student could lie under them.
    const label = (score, text) => svg("text", { x: right + 7, y: y(score) + 4, style: "fill:#256b3d" }, text);
    if (bandHigh > 13) root.append(label(teacher - 0.01, "−1"), label(teacher - 0.02, "−2"));

    const spots = data.trials.map((trial) => {
      const told = view.test && confirmed.get(trial.trial);
      return { trial, cx: at(trial)[0], cy: told ? y(told.test) : at(trial)[1], pull: told ? 12 : trial.front ? 8 : 0 };
    });
    const shown = spots.filter((spot) => spot.cy <= height - margin.bottom);
    const mark = (spot) => {
      ring.setAttribute("visibility", spot ? "visible" : "hidden");
      if (spot) for (const [key, value] of [["cx", spot.cx], ["cy", spot.cy]]) ring.setAttribute(key, value);
    };
    const stay = () => mark(shown.find((spot) => spot.trial.trial === view.selected));
    const under = (event) => {
      const box = root.getBoundingClientRect();
      const [left, top] = [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
      let best = null;
      let least = 26;
      for (const spot of shown) {
        const distance = Math.hypot(spot.cx - left, spot.cy - top) - spot.pull;
        if (distance < least) [best, least] = [spot, distance];
      }
      return best;
    };
    const tell = (spot) => {
      const box = root.getBoundingClientRect();
      mark(spot);
      showTip(tipOf(spot.trial), box.left + (spot.cx * box.width) / width, box.top + (spot.cy * box.height) / height);
    };
    root.addEventListener("pointermove", (event) => {
      const spot = under(event);
      root.style.cursor = spot ? "pointer" : "default";
      if (spot) tell(spot);
      else {
        hideTip();
        stay();
      }
    });
    root.addEventListener("pointerleave", () => {
      hideTip();
      stay();
    });
    root.addEventListener("click", (event) => {
      const spot = under(event);
      if (!spot) return;
      view.selected = spot.trial.trial;
      showDetail();
      tell(spot);
    });
    for (const spot of shown.filter((each) => each.trial.front)) {
      const target = svg("circle", { cx: spot.cx, cy: spot.cy, r: 9, fill: "transparent", tabindex: 0, role: "button", "aria-label": `${title(spot.trial)}, ${words(spot.trial).join(", ")}`, "data-trial": spot.trial.trial });
      target.addEventListener("focus", () => tell(spot));
      target.addEventListener("blur", hideTip);
      target.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        view.selected = spot.trial.trial;
        showDetail();
      });
      root.append(target);
    }
    stay();
    place.replaceChildren(root);
    drawLegend();
    redrawn = stay;
    const hidden = data.trials.filter((trial) => trial.y < low).length;
    const more = data.complete - data.trials.length;
    document.getElementById("front-caption").textContent =
      "Point at a student for its recipe; click or tap to keep it below. " +
      (more ? `Of ${data.complete.toLocaleString("en")} complete trials ${data.trials.length.toLocaleString("en")} are drawn. ` : "") +
      (hidden ? `${hidden} ${more ? "of them lie" : hidden > 1 ? "students lie" : "student lies"} below this view.` : "");
  }

  function drawLegend() {
    const dot = (fill, opacity, r) => svg("circle", { cx: 8, cy: 8, r, fill, "fill-opacity": opacity });
    const entries = [
      [svg("path", { d: "M8 1l7 7l-7 7l-7 -7z", fill: ink.good }), `teacher, ${(view.test ? data.teacher.test : data.teacher.validation).toFixed(4)}; bands at −1 and −2 points`],
      [dot(ink.accent, view.test ? 0.35 : 1, 6), "front: no other is both smaller and better"],
      [dot(ink.faint, 0.5, 4), "other students"],
    ];
    if (view.test) {
      entries.push([svg("g", {}, svg("line", { x1: 8, x2: 8, y1: 0, y2: 16, stroke: ink.test, "stroke-width": 2 }), dot(ink.test, 1, 5)), "on test, with its 95 % interval"]);
      entries.push([svg("rect", { x: 3.5, y: 3.5, width: 9, height: 9, fill: "#fff", stroke: ink.test, "stroke-width": 1.5 }), "the same without a teacher"]);
    }
    const shown = entries.map(([sign, text]) => html("span", {}, svg("svg", { width: 16, height: 16, "aria-hidden": "true" }, sign), text));
    document.getElementById("front-legend").replaceChildren(...shown);
  }

  function drawConfirmed(group, told, cx, y) {
    group.append(svg("line", { x1: cx, x2: cx, y1: y(told.ci95[0]), y2: y(told.ci95[1]), stroke: ink.test, "stroke-width": 2 }));
    for (const end of told.ci95) group.append(svg("line", { x1: cx - 5, x2: cx + 5, y1: y(end), y2: y(end), stroke: ink.test, "stroke-width": 2 }));
    if (told.control !== null && told.control !== told.test) {
      group.append(svg("rect", { x: cx - 4.5, y: y(told.control) - 4.5, width: 9, height: 9, fill: "#fff", stroke: ink.test, "stroke-width": 1.5 }));
    }
    group.append(svg("circle", { cx, cy: y(told.test), r: 6.5, fill: ink.test, stroke: "#fff", "stroke-width": 2 }));
  }

  function controls() {
    const box = document.getElementById("controls");
    const group = (name, options, key) => {
      const line = html("div", { class: "group" }, name);
      for (const [text, value] of options) {
        const button = html("button", { type: "button", "aria-pressed": view[key] === value }, text);
        button.addEventListener("click", () => {
          view[key] = value;
          for (const other of line.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
          drawFront();
        });
        line.append(button);
      }
      box.append(line);
    };
    if (data.confirmed.length) group("Scores on", [["test", true], ["validation", false]], "test");
    if (wide) group("Show", [["near the teacher", true], ["everything", false]], "near");
    const families = [...new Set(data.trials.map((trial) => trial.family))].sort();
    const strategies = [...new Set(data.trials.map((trial) => trial.strategy))].sort();
    if (families.length + strategies.length > 2) {
      const select = html("select", { "aria-label": "Highlight a strategy or family" }, html("option", { value: "" }, "all"));
      for (const [name, values] of [["strategy", strategies], ["family", families]]) {
        if (values.length < 2) continue;
        const part = html("optgroup", { label: name });
        for (const value of values) part.append(html("option", { value }, value));
        select.append(part);
      }
      select.addEventListener("change", () => {
        view.part = select.value;
        drawFront();
      });
      box.append(html("label", { class: "group" }, "Highlight", select));
    }
    box.hidden = !box.children.length;
  }

  // ---- hypervolume over time
  function drawGrowth() {
    const place = document.getElementById("growth-chart");
    if (!place) return;
    const width = Math.max(280, place.clientWidth);
    const height = 230;
    const margin = { left: 54, right: 18, top: 26, bottom: 44 };
    const top = Math.max(...data.growth.map((each) => each[1]), 0.01) * 1.08;
    const x = linear(0, Math.max(1, data.ended), margin.left, width - margin.right);
    const y = linear(0, top, height - margin.bottom, margin.top);
    const across = ticksBetween(0, Math.max(1, data.ended), Math.min(width / 80, data.ended));
    const up = ticksBetween(0, top, 4);
    const root = frame(
      width,
      height,
      margin,
      across.found.map((at) => ({ at, text: at.toLocaleString("en") })),
      up.found.map((at) => ({ at, text: at.toFixed(Math.max(1, up.digits)) })),
      x,
      y,
      { label: "Hypervolume after each trial", x: "trials ended", y: "hypervolume" },
    );
    const points = data.growth.map(([count, value]) => [x(count), y(value)]);
    const line = `M${x(0)} ${y(0)}` + points.map(([left, up]) => `H${left}V${up}`).join("") + `H${x(data.ended)}`;
    root.append(svg("path", { d: `${line}V${y(0)}Z`, fill: "#e8f0fc" }), svg("path", { d: line, fill: "none", stroke: ink.accent, "stroke-width": 2 }));
    data.growth.forEach(([count, value, trial], place) => {
      const spot = svg("circle", { cx: points[place][0], cy: points[place][1], r: data.growth.length > 60 ? 2.5 : 4, fill: ink.accent, stroke: "#fff", "stroke-width": 1 });
      const told = () => html("div", {}, html("b", {}, `Trial ${trial}`), html("div", {}, `after ${count} trials: ${value.toFixed(4)}`));
      spot.addEventListener("pointerenter", (event) => showTip(told(), event.clientX, event.clientY));
      spot.addEventListener("pointerleave", hideTip);
      root.append(spot);
    });
    place.replaceChildren(root);
  }

  // ---- loss terms
  const palette = ["#1f5fc4", "#b4540a", "#2f7d4a", "#8a3fa0", "#0f7f8c", "#a62626", "#6b6b1e", "#566274"];
  const terms = [...new Set(data.curves.flatMap((curve) => Object.keys(curve.terms)))];
  const colour = (term) => palette[terms.indexOf(term) % palette.length];
  const dash = (term) => (terms.indexOf(term) >= palette.length ? "5 3" : "none");

  function drawLosses() {
    const place = document.getElementById("loss-charts");
    if (!place) return;
    const legend = document.getElementById("loss-legend");
    legend.replaceChildren(
      ...terms.map((term) =>
        html("span", {}, svg("svg", { width: 22, height: 8 }, svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: colour(term), "stroke-width": 2.5, "stroke-dasharray": dash(term) })), term),
      ),
    );
    const figures = data.curves.map((curve) => html("figure", {}, html("figcaption", {}, html("b", {}, `Trial ${curve.trial}`), `  ${compact(curve.params)}, ${curve.strategy}`), html("div")));
    place.replaceChildren(...figures);
    data.curves.forEach((curve, number) => {
      const box = figures[number].lastChild;
      const width = Math.max(200, box.clientWidth);
      const height = 170;
      const margin = { left: 40, right: 8, top: 8, bottom: 24 };
      const values = Object.values(curve.terms).flat().filter((value) => value !== null);
      const low = Math.min(0, ...values);
      const top = Math.max(...values);
      const high = top > low ? low + 1.05 * (top - low) : low + 1;
      const x = linear(0, 1, margin.left, width - margin.right);
      const y = linear(low, high, height - margin.bottom, margin.top);
      const up = ticksBetween(low, high, 4);
      const root = frame(
        width,
        height,
        margin,
        [0, 0.5, 1].map((at) => ({ at, text: `${100 * at} %` })),
        up.found.map((at) => ({ at, text: at.toFixed(Math.min(4, up.digits)) })),
        x,
        y,
        { label: `Loss terms of trial ${curve.trial}` },
      );
      for (const [term, told] of Object.entries(curve.terms)) {
        let line = "";
        let pen = "M";
        told.forEach((value, step) => {
          if (value === null) pen = "M";
          else {
            line += `${pen}${x(curve.share[step])} ${y(value)}`;
            pen = "L";
          }
        });
        root.append(svg("path", { d: line, fill: "none", stroke: colour(term), "stroke-width": 1.8, "stroke-dasharray": dash(term), "stroke-linejoin": "round" }));
      }
      box.replaceChildren(root);
    });
  }

  for (const row of document.querySelectorAll("tr[data-trial]")) {
    row.addEventListener("click", () => {
      view.selected = Number(row.dataset.trial);
      showDetail();
      redrawn();
      document.getElementById("detail").scrollIntoView({ block: "nearest" });
    });
  }

  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest || !event.target.closest("svg")) hideTip();
  });

  // ---- copying
  document.addEventListener("click", async (event) => {
    const button = event.target.closest && event.target.closest("button.copy");
    if (!button) return;
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1500);
  });

  let drawn = 0;
  function draw() {
    const width = document.documentElement.clientWidth;
    if (width === drawn) return;
    drawn = width;
    hideTip();
    drawFront();
    drawGrowth();
    drawLosses();
  }
  controls();
  draw();
  showDetail();
  window.addEventListener("resize", draw);
})();
