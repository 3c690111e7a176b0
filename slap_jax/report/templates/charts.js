document.querySelectorAll("svg.chart").forEach(function (svg) {
  var chart = JSON.parse(svg.dataset.chart), space = svg.namespaceURI;
  var rule = document.createElementNS(space, "line"), dots = [];
  var readout = document.createElement("div"), words = document.createElement("span");
  readout.className = "readout";
  readout.appendChild(words);
  rule.setAttribute("class", "pointer");
  rule.setAttribute("y1", chart.y[3]);
  rule.setAttribute("y2", chart.y[2]);
  function across(step) {
    return chart.x[2] + (step - chart.x[0]) / (chart.x[1] - chart.x[0]) * (chart.x[3] - chart.x[2]);
  }
  function down(value) {
    var isLog = chart.log && svg.closest(".logarithmic"), low = chart.y[0], high = chart.y[1];
    if (isLog) { low = Math.log(chart.log[0]); high = Math.log(chart.log[1]); value = Math.log(value); }
    var top = chart.y[2] + (value - low) / (high - low) * (chart.y[3] - chart.y[2]);
    return Math.max(chart.y[3] - 2, Math.min(chart.y[2] + 2, top));
  }
  function nearest(points, step) {
    return points.reduce(function (best, point) {
      return Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best;
    });
  }
  function show(event) {
    var box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    var left = (event.clientX - box.left) * scale;
    var step = chart.x[0] + (left - chart.x[2]) / (chart.x[3] - chart.x[2]) * (chart.x[1] - chart.x[0]);
    var lines = chart.lines.filter(function (line) { return line.points.length; });
    if (!lines.length) return;
    var anchor = nearest(lines[0].points, step)[0], texts = [];
    hide();
    lines.forEach(function (line) {
      var point = nearest(line.points, anchor), dot = document.createElementNS(space, "circle");
      dot.setAttribute("cx", across(point[0]));
      dot.setAttribute("cy", down(point[1]));
      dot.setAttribute("r", 3.4);
      dot.setAttribute("fill", line.colour);
      svg.appendChild(dot);
      dots.push(dot);
      texts.push((line.name ? line.name + " " : "") + point[1]);
    });
    rule.setAttribute("x1", across(anchor));
    rule.setAttribute("x2", across(anchor));
    svg.appendChild(rule);
    words.textContent = chart.label + " " + anchor + ": " + texts.join(", ");
    svg.parentNode.appendChild(readout);
  }
  function hide() {
    dots.splice(0).forEach(function (dot) { dot.remove(); });
    rule.remove();
    readout.remove();
  }
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
  var title = svg.querySelector("title"); // the values under the pointer say more than its tooltip
  if (title) title.remove();
});
document.querySelectorAll("input.logarithm").forEach(function (box) {
  box.addEventListener("change", function () {
    box.closest("section").classList.toggle("logarithmic", box.checked);
  });
});
