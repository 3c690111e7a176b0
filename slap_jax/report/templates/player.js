document.querySelectorAll(".clip").forEach(function (clip) {
  var button = clip.querySelector("button"), sound = clip.querySelector("audio"), head = clip.querySelector(".sound i");
  var picture = clip.querySelector(".sound img"), strip = clip.querySelector(".sound");
  if (!button || !sound) return;
  function show(playing) {
    clip.classList.toggle("playing", playing);
    button.textContent = playing ? "\u25A0" : "\u25B6";
  }
  function follow() {
    var width = picture ? picture.clientWidth : strip.clientWidth;
    if (head && sound.duration) head.style.left = (sound.currentTime / sound.duration) * width + "px";
    if (!sound.paused) requestAnimationFrame(follow);
  }
  button.addEventListener("click", function () {
    if (!sound.paused) { sound.pause(); return; }
    document.querySelectorAll("audio").forEach(function (other) { if (other !== sound) other.pause(); });
    sound.currentTime = 0;
    sound.play();
  });
  if (strip) strip.addEventListener("click", function (event) {
    var box = (picture || strip).getBoundingClientRect();
    if (!sound.duration) { button.click(); return; }
    sound.currentTime = Math.min(1, (event.clientX - box.left) / box.width) * sound.duration;
    if (sound.paused) {
      document.querySelectorAll("audio").forEach(function (other) { if (other !== sound) other.pause(); });
      sound.play();
    }
  });
  sound.addEventListener("play", function () { show(true); follow(); });
  sound.addEventListener("pause", function () { show(false); });
  sound.addEventListener("ended", function () { show(false); });
});
