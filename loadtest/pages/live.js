// Charts of the last ten minutes under Locust's own page: response time from the schedule, TTFT, TPOT, lateness.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ink = dark ? "#e5e7eb" : "#172033", line = dark ? "#3b4252" : "#d9dee7";
  const panel = document.createElement("section");
  panel.style.cssText =
    `font: 14px system-ui, sans-serif; color: ${ink}; background: ${dark ? "#161b22" : "#fff"};` +
    "padding: 12px 24px 28px; position: relative; z-index: 5;";
  panel.innerHTML = "<h2 style='font-size:16px;margin:8px 0'>Token latencies <small id='sluice-title'></small></h2>" +
    "<div id='sluice-charts' style='display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:14px'></div>";
  // Locust's page fills the window; ours goes below what it shows, not below the window.
  const style = document.createElement("style");
  style.textContent = "#root > div, #root > div > div { min-height: 0 !important; height: auto !important; }";
  document.head.append(style);
  document.body.append(panel);
  const charts = [["latency", "Response time from the schedule"], ["ttft", "TTFT"], ["tpot", "TPOT"],
    ["lateness", "Lateness of the generator"]];
  const W = 420, H = 170, L = 46, B = 22, T = 8, R = 10;

  const nice = (top) => {
    const step = 10 ** Math.floor(Math.log10(top));
    return [1, 2, 5, 10].map((k) => k * step).find((value) => value >= top);
  };
  const path = (points, x, y, key) => {
    let text = "", pen = "M";
    for (const point of points) {
      if (point[key] === null) { pen = "M"; continue; }
      text += `${pen}${x(point.t).toFixed(1)},${y(point[key]).toFixed(1)}`;
      pen = "L";
    }
    return text;
  };
  const draw = (points, name, label, limit) => {
    const known = points.flatMap((p) => [p[`${name}_p50`], p[`${name}_p99`]]).filter((v) => v !== null);
    const newest = known.length ? points[points.length - 1][`${name}_p99`] : null;
    const top = nice(Math.max(limit || 0, ...known, 0.001) * 1.05);
    const from = points.length ? points[0].t : 0, to = points.length ? Math.max(points[points.length - 1].t, from + 10) : 10;
    const x = (t) => L + (t - from) / (to - from) * (W - L - R), y = (v) => H - B - Math.min(v / top, 1) * (H - B - T);
    const grid = [0, 0.25, 0.5, 0.75, 1].map((f) => `<line x1="${L}" x2="${W - R}" y1="${y(top * f)}" y2="${y(top * f)}"` +
      ` stroke="${line}"/><text x="${L - 6}" y="${y(top * f) + 4}" text-anchor="end" font-size="10" fill="${ink}">` +
      `${+(top * f).toPrecision(3)}</text>`).join("");
    const bound = limit ? `<line x1="${L}" x2="${W - R}" y1="${y(limit)}" y2="${y(limit)}" stroke="#d0312d" stroke-dasharray="5 4"/>` : "";
    return `<figure style="margin:0"><figcaption>${label} (ms) ` +
      `<span style="color:#2563eb">p50</span> <span style="color:#ea8a00">p99${newest === null ? "" : " " + newest.toFixed(1)}</span>` +
      `${limit ? ` <span style="color:#d0312d">limit ${limit}</span>` : ""}</figcaption>` +
      `<svg viewBox="0 0 ${W} ${H}" style="width:100%">${grid}${bound}` +
      `<path d="${path(points, x, y, name + "_p50")}" fill="none" stroke="#2563eb" stroke-width="1.6"/>` +
      `<path d="${path(points, x, y, name + "_p99")}" fill="none" stroke="#ea8a00" stroke-width="1.6"/>` +
      `<text x="${W - R}" y="${H - 6}" text-anchor="end" font-size="10" fill="${ink}">${Math.round(to)} s</text>` +
      `<text x="${L}" y="${H - 6}" font-size="10" fill="${ink}">${Math.round(from)} s</text></svg></figure>`;
  };
  const refresh = async () => {
    try {
      const answer = await fetch("__BASE__/token-latencies/data");
      const { points, limits, title } = await answer.json();
      document.getElementById("sluice-title").textContent = title;
      document.getElementById("sluice-charts").innerHTML =
        charts.map(([name, label]) => draw(points, name, label, limits[name])).join("");
    } catch { /* the page outlives a test run that was stopped */ }
  };
  refresh();
  setInterval(refresh, 2000);
})();
