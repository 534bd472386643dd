"use strict";
// Draws the charts when the page opens, and again when the theme or the width of the window changes.

function drawCharts() {
  drawHeadline();
  drawCurves();
  drawCost();
  drawTimes();
}

function drawAll() {
  drawCharts();
  drawWidths();
  drawLegend();
}

/** Plotly lies in the page compressed, which makes the page smaller by half a megabyte. */
async function unpackPlotly() {
  const bytes = Uint8Array.from(atob($("plotly").textContent), (character) => character.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(element("script", {}, await new Response(unpacked).text()));
}

function redrawWhenTheWidthChanges() {
  let width = window.innerWidth;
  let waiting = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's bars come and go as one scrolls
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawCharts, 120);
  });
}

startRounds();
startCurves();
startCost();
startTimes();
unpackPlotly().then(() => {
  drawAll();
  if (state.metric) $("curves-plot").on("plotly_relayout", renewTicks);
  onTheme.push(drawAll);
  onRounds.push(drawCharts);
  redrawWhenTheWidthChanges();
});
