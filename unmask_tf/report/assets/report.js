"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const ROUNDING = 1e-12; // as defense/alignment.py

  // A tag with attributes and children; texts are escaped.
  const make = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "rect", "path", "circle", "text"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  // --- What the address says: #section&t=0.8&class=car, so that every view has a link ---------------------------------
  const state = { anchor: "", t: "", cell: "", class: "", attack: "", epsilon: "", outcome: "", case: "" };
  const readAddress = () => {
    for (const name of Object.keys(state)) state[name] = "";
    for (const piece of location.hash.slice(1).split("&")) {
      const [name, value] = piece.split("=").map(decodeURIComponent);
      if (value === undefined) state.anchor = name;
      else if (name in state) state[name] = value;
    }
  };
  const writeAddress = () => {
    const set = Object.entries(state).filter(([name, value]) => name !== "anchor" && value !== "");
    const pieces = [state.anchor || "explore", ...set.map((pair) => pair.map(encodeURIComponent).join("="))];
    history.replaceState(null, "", "#" + pieces.join("&"));
  };
  const goTo = (anchor) => {
    const target = at(anchor) || at("table-" + anchor);
    if (!target) return;
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    target.scrollIntoView();
  };

  // --- Tables ---------------------------------------------------------------------------------------------------------
  const valueOf = (row, column) => row.cells[column].textContent.trim();
  const compared = (a, b) => {
    const [x, y] = [parseFloat(a), parseFloat(b)];
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1; // what is missing comes last
    return isNaN(x) ? a.localeCompare(b) : x - y;
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    const original = [...table.tBodies[0].rows];
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const order = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] || "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      let rows = original;
      if (order !== "none") {
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        rows = [...original].sort((a, b) => sign * compared(valueOf(a, column), valueOf(b, column)));
      }
      table.tBodies[0].append(...rows);
    }));
  }

  // --- Threshold and ROC ----------------------------------------------------------------------------------------------
  const threshold = () => parseFloat(at("t").value);
  // Attacked and benign images of a curve that are flagged at t, and how many there are.
  const flagged = (curve, t) => {
    let reached = -1; // the levels fall
    while (reached + 1 < curve.levels.length && curve.levels[reached + 1] >= t - ROUNDING) reached += 1;
    const count = (of) => (reached < 0 ? 0 : of[reached]);
    return { attacked: count(curve.attacked), benign: count(curve.benign), n: curve.attacked[curve.attacked.length - 1] };
  };
  const drawCurve = (curve) => {
    const n = flagged(curve, -1).n;
    const points = curve.levels.map((_, i) => `L${100 * curve.benign[i] / n},${100 - 100 * curve.attacked[i] / n}`);
    const text = (x, y, words, anchor = "middle") => make("text", { x, y, "text-anchor": anchor }, words);
    at("roc").replaceChildren(
      make("path", { class: "frame", d: "M0,0H100V100H0ZM0,100L100,0M0,50H100M50,0V100" }),
      make("path", { d: "M0,100" + points.join("") }),
      text(50, 113, "false positive rate"), text(0, 106, "0"), text(100, 106, "1"),
      text(-3, 101, "0", "end"), text(-3, 2, "1", "end"),
      make("text", { x: -50, y: -7, transform: "rotate(-90)", "text-anchor": "middle" }, "true positive rate"),
      text(98, 96, `AUC ${curve.auc.toFixed(3)}`, "end"),
      make("circle", { id: "point", r: 3 }));
  };
  const showRates = (curve, t) => {
    const { attacked, benign, n } = flagged(curve, t);
    at("t-value").textContent = t.toFixed(3);
    at("tpr").textContent = (attacked / n).toFixed(3);
    at("fpr").textContent = (benign / n).toFixed(3);
    at("counts").textContent = `${attacked} of ${n} successful attacks found, ${benign} of ${n} benign images flagged.`;
    at("point").setAttribute("cx", 100 * benign / n);
    at("point").setAttribute("cy", 100 - 100 * attacked / n);
  };

  // --- Gallery --------------------------------------------------------------------------------------------------------
  const OUTCOMES = {
    passed: "not attacked, passed", alarm: "not attacked, false alarm", corrected: "attack found and corrected",
    miscorrected: "attack found, wrong class", missed: "attack missed", withstood: "attack failed: M is right",
  };
  const BAD = ["alarm", "miscorrected", "missed"];
  const outcome = (one, t) => {
    const doubted = one.score >= t - ROUNDING;
    if (!one.attacked) return doubted ? "alarm" : "passed";
    if (one.model_answer === one.true) return "withstood";
    if (!doubted) return "missed";
    return one.answer === one.true ? "corrected" : "miscorrected";
  };
  const verdict = (one, t) => {
    const sign = one.score >= t - ROUNDING ? "≥" : "<";
    const doubted = sign === "≥" ? `doubted; the parts say ${one.answer || "no class"}` : "believed";
    return `d = ${one.score.toFixed(3)} ${sign} t: ${doubted} (${OUTCOMES[outcome(one, t)]})`;
  };
  const boxes = (one) => {
    const svg = make("svg", { viewBox: `0 0 ${one.size} ${one.size}`, "aria-hidden": "true" });
    for (const [part, score, found] of one.parts) {
      const [y1, x1, y2, x2] = found[0];
      const box = make("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
      if (!one.expected.includes(part)) box.setAttribute("class", "unexpected");
      svg.append(box);
    }
    return svg;
  };
  const card = (one, i) => {
    const seen = one.parts.map(([part]) => part);
    const image = (caption, uri, more = []) =>
      make("div", {}, make("span", { title: caption }, caption), make("img", { src: uri, alt: caption, loading: "lazy" }), ...more);
    const images = make("div", { class: "images" + (one.size < 200 ? " pixels" : "") }, image(`a ${one.true}`, one.clean));
    if (one.attacked) images.append(image(`added, x${one.gain.toFixed(0)}`, one.added));
    images.append(image("what K sees", one.attacked || one.clean, [boxes(one)]));
    const listed = (tag, words, parts) => parts.length ? [make("br"), make(tag, {}, `${words}: `), parts.join(", ")] : [];
    const parts = make("p", { class: "parts" }, `M says ${one.model_answer}.`,
      ...listed("b", "Expected and seen", seen.filter((part) => one.expected.includes(part))),
      ...listed("i", "Seen, not expected", seen.filter((part) => !one.expected.includes(part))),
      ...listed("span", "Expected, not seen", one.expected.filter((part) => !seen.includes(part))));
    const bars = Object.entries(one.similarities).map(([name, value]) => {
      const role = name === one.answer ? " best" : name === one.model_answer ? " said" : "";
      const fill = make("div", { style: `width:${100 * value}%` });
      return make("div", { class: "bar" + role }, make("span", {}, name), make("div", {}, fill), value.toFixed(2));
    });
    const link = make("a", { href: `#explore&case=${i}`, title: "link to this case" }, "#" + i);
    const where = `${one.class_set} ${one.model}`;
    return make("article", { id: `case-${i}`, tabindex: "0", "aria-label": `Case ${i}: ${one.true}, ${one.name}` },
      make("h4", {}, `${one.true}, ${one.name}`, link), make("small", {}, where), images, make("p", { class: "verdict" }),
      parts, ...bars);
  };
  const cards = data.gallery.map(card);
  const filters = at("filters");
  const fill = (select, pairs) => select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  const different = (of) => [...new Set(data.gallery.map(of))].sort((a, b) => compared(String(a), String(b)));
  const FILTERS = {
    class: (one) => one.true, attack: (one) => one.attack, epsilon: (one) => String(one.epsilon_255),
    outcome: (one, t) => outcome(one, t),
  };
  const showGallery = (t) => {
    let shown = 0;
    data.gallery.forEach((one, i) => {
      const fits = Object.entries(FILTERS).every(([name, of]) => !filters[name].value || filters[name].value === of(one, t));
      cards[i].hidden = !fits;
      cards[i].classList.toggle("wrong", BAD.includes(outcome(one, t)));
      cards[i].classList.toggle("chosen", state.case === String(i));
      cards[i].querySelector(".verdict").textContent = verdict(one, t);
      shown += fits;
    });
    at("shown").textContent = `${shown} of ${cards.length} cases`;
  };

  // --- All together ---------------------------------------------------------------------------------------------------
  const show = () => {
    const t = threshold();
    if (data.detections.length) showRates(data.detections[at("cell").value], t);
    showGallery(t);
  };
  const changed = () => {
    const chosen = new FormData(filters);
    for (const name of Object.keys(FILTERS)) state[name] = chosen.get(name);
    Object.assign(state, { anchor: "explore", t: at("t").value, cell: at("cell").value });
    show();
    writeAddress();
  };
  const fromAddress = () => {
    readAddress();
    const curve = data.detections[state.cell] || data.detections[0];
    if (curve) {
      at("cell").value = data.detections.indexOf(curve);
      drawCurve(curve);
    }
    const usual = curve && data.thresholds[curve.setup];
    at("t").value = state.t || (usual === undefined ? 0.5 : Math.min(usual, 1.01));
    for (const name of Object.keys(FILTERS)) filters[name].value = state[name];
    show();
    if (state.case && cards[state.case]) cards[state.case].scrollIntoView({ block: "center" });
    else if (state.anchor) goTo(state.anchor);
  };

  at("explore").hidden = !data.detections.length && !cards.length;
  at("gallery-part").hidden = !cards.length;
  document.querySelector(".panel").hidden = !data.detections.length;
  fill(at("cell"), data.detections.map((curve, i) => [i, curve.name]));
  fill(filters.class, [["", "all"], ...different(FILTERS.class).map((name) => [name, name])]);
  fill(filters.attack, [["", "all"], ...different(FILTERS.attack).map((name) => [name, data.attacks[name] || name])]);
  fill(filters.epsilon, [["", "all"], ...different(FILTERS.epsilon).map((name) => [name, name])]);
  fill(filters.outcome, [["", "all"], ...Object.entries(OUTCOMES)]);
  at("gallery").append(...cards);
  at("t").addEventListener("input", changed);
  at("cell").addEventListener("change", () => { drawCurve(data.detections[at("cell").value]); changed(); });
  filters.addEventListener("change", changed);
  filters.addEventListener("reset", () => setTimeout(changed));
  addEventListener("hashchange", fromAddress);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const visible = cards.filter((one) => !one.hidden);
    const here = visible.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "t") at("t").focus();
    else if (event.key === "g" && visible.length) visible[0].focus();
    else if (step && here >= 0 && visible[here + step]) visible[here + step].focus();
    else return;
    event.preventDefault();
  });

  const root = document.documentElement;
  const remembered = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (remembered) root.dataset.theme = remembered;
  at("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a page from a file may not keep it */ }
  });
  fromAddress();
})();
