// Plotly, when it is needed, and one look for its charts.
"use strict";

let plotly = null;

/** The library, unpacked and run once. Its hash stands in the page's policy. */
function charts() {
  plotly ??= unpackText("plotly").then((source) => {
    document.head.append(make("script", { text: source }));
    return window.Plotly;
  });
  return plotly;
}

/** Text that Plotly shows as it is: it reads some tags and entities. */
function literal(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const FONT = { family: 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif', size: 12, color: "#1f2328" };
const CONFIG = {
  responsive: true,
  displaylogo: false,
  // named one by one: others would send a chart to a site
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
};

function layoutOf(changes) {
  const axis = { gridcolor: "#e6e6e6", zeroline: false, linecolor: "#afb8c1", automargin: true };
  return {
    font: FONT,
    margin: { l: 56, r: 12, t: 8, b: 44 },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: "#ffffff", bordercolor: "#afb8c1", font: FONT, align: "left" },
    paper_bgcolor: "#ffffff",
    plot_bgcolor: "#ffffff",
    ...changes,
    xaxis: { ...axis, ...changes.xaxis },
    yaxis: { ...axis, ...changes.yaxis },
  };
}
