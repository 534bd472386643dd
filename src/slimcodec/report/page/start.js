"use strict";
// Draws the charts when the page opens, and again when the theme or the width of the window changes.

function drawCharts() {
  drawHeadline();
  drawCurves();
  drawCost();
}

function drawAll() {
  drawCharts();
  drawWidths();
  drawLegend();
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

startCurves();
startCost();
drawAll();
onTheme.push(drawAll);
redrawWhenTheWidthChanges();
