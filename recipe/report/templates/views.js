// One view at a time, named by the address' fragment; dark and light. Without a script the page
// shows all views one below the other.
const views = [...document.querySelectorAll(".view")];
const links = [...document.querySelectorAll(".top nav a")];

function showView() {
  const name = location.hash.startsWith("#case") ? "cases" : location.hash.slice(1);
  const shown = views.find((view) => view.id === name) ?? views[0];
  for (const view of views) view.hidden = view !== shown;
  for (const link of links) {
    if (link.hash === `#${shown?.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  dispatchEvent(new Event("resize")); // sizes are known only of what is shown
}

function measureTop() {
  const header = document.querySelector("header").getBoundingClientRect().height;
  document.documentElement.style.setProperty("--top", `${Math.ceil(header)}px`);
}

const stored = { // a browser may forbid files to store anything
  get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("theme", value); } catch { /* for this visit */ } },
};

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function switchTheme() {
  const asked = document.documentElement.dataset.theme;
  const isDark = asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(isDark ? "light" : "dark");
  stored.set(document.documentElement.dataset.theme);
}

setTheme(stored.get());
document.getElementById("theme").addEventListener("click", switchTheme);
addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, select, textarea");
  if (event.key === "t" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    switchTheme();
  }
});
addEventListener("hashchange", showView);
addEventListener("resize", measureTop);
measureTop();
showView();
