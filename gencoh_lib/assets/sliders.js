(() => {
  const SECONDS = 0.8; // a frame, while playing

  function bringAlive(block) {
    const find = (selector) => block.querySelector(selector);
    const data = JSON.parse(find('script[type="application/json"]').textContent);
    const image = find("img");
    const readout = find(".gencoh-readout");
    const inputs = [...block.querySelectorAll('input[type="range"]')];
    const values = [...block.querySelectorAll(".gencoh-value")];
    const play = find(".gencoh-play");
    const [sign, words] = play.children;
    const lead = inputs[0];
    // Readers who want no motion get the frames one by one, at their own pace.
    const still = window.matchMedia("(prefers-reduced-motion: reduce)");
    let timer = null;

    function show() {
      let frame = 0;
      inputs.forEach((input, k) => {
        const at = Number(input.value);
        frame = frame * data.values[k].length + at;
        values[k].textContent = data.values[k][at];
        input.setAttribute("aria-valuetext", data.values[k][at]);
      });
      const [png, alt, said] = data.frames[frame];
      image.src = "data:image/png;base64," + png;
      image.alt = alt;
      readout.textContent = said;
    }

    function nameButton() {
      sign.textContent = still.matches ? "▸" : timer === null ? "▶" : "❚❚";
      words.textContent = (still.matches ? "Next " : timer === null ? "Play " : "Pause ") + data.name;
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      readout.removeAttribute("aria-live"); // its role announces again
      nameButton();
    }

    function step() {
      lead.value = lead.value === lead.max ? 0 : Number(lead.value) + 1;
      show();
    }

    play.addEventListener("click", () => {
      if (timer !== null) { stop(); show(); return; }
      step();
      if (still.matches || lead.value === lead.max) return;
      readout.setAttribute("aria-live", "off"); // or every frame would be spoken over the last
      timer = setInterval(() => {
        // The last frame is announced again; a block that a notebook has removed plays no more.
        if (!block.isConnected || Number(lead.value) + 1 >= Number(lead.max)) stop();
        step();
      }, 1000 * SECONDS);
      nameButton();
    });
    still.addEventListener("change", stop);
    for (const input of inputs) {
      input.addEventListener("input", () => { if (timer !== null) stop(); show(); });
    }

    nameButton();
    show();
    find(".gencoh-controls").hidden = false;
    find("details").open = false;
  }

  // All: the same cell may be on a page twice, and may be drawn again by a notebook.
  for (const block of document.querySelectorAll('[data-block="BLOCK"]')) {
    if (block.dataset.alive) continue;
    block.dataset.alive = "yes";
    bringAlive(block);
  }
})();
