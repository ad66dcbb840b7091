// What happens when the page is opened.

function startTheme() {
  const button = byId("theme");
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => {
    const asked = document.documentElement.dataset.theme;
    return asked === "auto" ? prefers.matches : asked === "dark";
  };
  const tell = () => button.setAttribute("aria-pressed", String(dark()));
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    tell();
    redrawAll(false);
  });
  prefers.addEventListener("change", tell);
  tell();
}

startTheme();
startRanking();
startHeatmap();
startGraph();
startAgreement();
startNeurons();
document.documentElement.dataset.ready = "yes";
