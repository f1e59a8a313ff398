(() => {
  function element(tag, className, ...children) {
    const made = document.createElement(tag);
    made.className = className;
    made.append(...children);
    return made;
  }

  // Clones, because MathJax has already set the formulas of the originals.
  const copy = (node) => [...node.cloneNode(true).childNodes];

  function bringAlive(block) {
    const form = block.querySelector("form");
    const feedback = block.querySelector(".gencoh-feedback");
    const inputs = [...form.elements].filter((input) => input.name === "choice");
    const answers = [...block.querySelectorAll("details li")];
    const several = inputs[0].type === "checkbox";

    function verdict(k) {
      const right = answers[k].dataset.right === "yes";
      const icon = element("span", "", right ? "✓ " : "✗ ");
      icon.setAttribute("aria-hidden", "true");
      const words = right ? "Right." : "Not this one.";
      const chosen = several ? [element("em", "", ...copy(inputs[k].nextElementSibling)), ": "] : [];
      return element("p", right ? "gencoh-right" : "gencoh-wrong",
        element("strong", "", icon, words), " ", ...chosen, ...copy(answers[k].querySelector(".gencoh-reason")));
    }

    function check() {
      const chosen = inputs.map((input, k) => k).filter((k) => inputs[k].checked);
      if (chosen.length === 0) {
        return [element("p", "", "Choose an answer first.")];
      }
      const missing = answers.filter((answer, k) => answer.dataset.right === "yes" && !inputs[k].checked);
      const rest = several && missing.length > 0
        ? [element("p", "", missing.length === 1 ? "One right answer is still missing."
          : missing.length + " right answers are still missing.")] : [];
      return [...chosen.map(verdict), ...rest];
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      feedback.replaceChildren(...check());
    });
    form.addEventListener("change", () => feedback.replaceChildren());
    block.querySelector(".gencoh-check").hidden = false;
  }

  // All: the same cell may be on a page twice, and may be drawn again by a notebook.
  for (const block of document.querySelectorAll('[data-block="BLOCK"]')) {
    if (block.dataset.alive) continue;
    block.dataset.alive = "yes";
    bringAlive(block);
  }
})();
