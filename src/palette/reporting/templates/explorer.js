// Sliders and the map choose a taste; beside them stands who serves it, what is lost, what it sounds like.

const PATIENCE = 400; // milliseconds without a change before a screen reader is told
const byId = (id) => document.getElementById(id);
const decimals = (number, places = 3) => number.toFixed(places).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
const percent = (number, places = 1) => (number === null ? "–" : `${decimals(100 * number, places)}%`);

/** An element; what a child says is text, never markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function chip(member) {
  return element("span", { class: "chip", style: `background:${member.color}` }, member.number);
}

/** What a member was trained for, in words; the base was trained for nothing. */
function aim(member) {
  if (!member.weights) return "the base, with no adapter";
  const parts = data.traits.map((trait, place) => [member.weights[place], trait.name]);
  const told = parts.filter(([weight]) => weight > 0).map(([weight, name]) => `${name} ${percent(weight, 0)}`);
  return `trained for ${told.join(", ")}`;
}

function bar(value, color) {
  const width = `${Math.round(100 * Math.min(Math.max(value, 0), 1))}%`;
  return element("i", {}, element("b", { style: `width:${width};background:${color}` }));
}

/** Shown to as many decimals as fit, and to all of them for whoever reads the page by a program. */
function told(id, number, shown) {
  const place = byId(id);
  place.value = String(number);
  place.textContent = shown;
}

let weights = spread(data.floor.map(() => 1 / data.floor.length));
let waiting = 0;

/** Choose a taste; whoever does not see what follows is told once it rests. */
function choose(wanted) {
  weights = wanted;
  const found = show();
  clearTimeout(waiting);
  waiting = setTimeout(() => { byId("said").textContent = sentence(found); }, PATIENCE);
}

/** Show what follows from the taste. */
function show() {
  const found = judged(weights);
  weights.forEach((weight, trait) => {
    const slider = byId(`weight-${trait}`);
    slider.value = weight;
    slider.setAttribute("aria-valuetext", percent(weight));
    told(`share-${trait}`, weight, percent(weight));
  });
  mark(weights);
  byId("served").replaceChildren(chip(found.member), `${found.member.id === "base" ? "" : `${found.member.id}, `}${aim(found.member)}`);
  told("worth", found.own, decimals(found.own));
  if (found.ideal !== null) {
    told("ideal", found.ideal, decimals(found.ideal));
    told("regret", found.regret, decimals(found.regret));
    told("loss", found.loss, percent(found.loss));
    byId("reached").style.width = percent(Math.min(Math.max(found.share ?? 1, 0), 1));
    byId("reached-share").textContent = found.share === null ? "" : `${percent(found.share, 0)} of the possible gain`;
    byId("from").textContent = `base ${decimals(found.base)}`;
    byId("to").textContent = `ideal ${decimals(found.ideal)}`;
  }
  sound(found.member);
  return found;
}

function sentence({ member, own, ideal: most, regret, loss }) {
  const name = member.weights ? `Member ${member.number}` : "The base";
  const lost = most === null ? "" : `, which is ${decimals(regret)} or ${percent(loss)} below the ideal`;
  return `${name} serves this taste, worth ${decimals(own)}${lost}. Its answers are shown below.`;
}

/** A member's answers, each above what the base says. */
function sound(member) {
  byId("voices-title").replaceChildren(chip(member), member.weights ? "What it sounds like" : "What the base sounds like");
  byId("voices").replaceChildren(...data.questions.map((question, place) => {
    const rewards = data.traits.flatMap((trait, own) => {
      const reward = member.rewards[place][own] ?? 0;
      return [element("span", {}, trait.name), bar(reward, trait.color), element("span", {}, decimals(reward, 2))];
    });
    const card = element("article", { class: "answer", style: `border-top-color:${member.color}` },
      element("h4", {}, question),
      element("blockquote", {}, member.answers[place] || "(nothing)"),
      element("div", { class: "bar" }, ...rewards));
    if (member.weights) {
      card.append(element("p", { class: "note" }, "The base: ", element("q", {}, data.members[0].answers[place] || "(nothing)")));
    }
    return card;
  }));
}

/** The handle on the map of three traits; without a map nothing is marked. */
const mark = data.map ? handleOn(document.querySelector("#map-of-members svg"), data.map) : () => {};

function handleOn(svg, corners) {
  const shape = (name, attributes) => {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const handle = shape("g", { class: "handle" });
  handle.append(shape("circle", { r: 30, fill: "transparent" }), shape("circle", { r: 11, class: "halo" }), shape("circle", { r: 11, class: "ring" }), shape("circle", { r: 3.5, class: "core" }));
  svg.append(handle);
  svg.classList.add("pointed");

  const follow = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const [[ax, ay], [bx, by], [cx, cy]] = corners;
    const whole = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay);
    const second = ((at.x - ax) * (cy - ay) - (cx - ax) * (at.y - ay)) / whole;
    const third = ((bx - ax) * (at.y - ay) - (at.x - ax) * (by - ay)) / whole;
    const inside = [1 - second - third, second, third].map((share) => Math.max(share, 0));
    const sum = inside.reduce((total, share) => total + share, 0);
    choose(spread(inside.map((share) => share / sum)));
  };
  let dragged = false;
  svg.addEventListener("pointerdown", (event) => {
    // A finger that lands beside the handle may want to scroll the page.
    if (event.button !== 0 || (event.pointerType === "touch" && !handle.contains(event.target))) return;
    dragged = true;
    svg.setPointerCapture(event.pointerId);
    follow(event);
  });
  svg.addEventListener("pointermove", (event) => { if (dragged) follow(event); });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { dragged = false; });
  svg.addEventListener("click", follow);

  return (at) => {
    const shares = at.map((weight, trait) => (weight - data.floor[trait]) / free);
    const place = [0, 1].map((axis) => shares.reduce((sum, share, trait) => sum + share * corners[trait][axis], 0));
    handle.setAttribute("transform", `translate(${place[0]},${place[1]})`);
  };
}

data.traits.forEach((_, trait) => {
  const slider = byId(`weight-${trait}`);
  // The last step may fall short of the region's end: whoever is there means the end.
  slider.addEventListener("input", () => {
    const end = slider.max - slider.value < slider.step - 1e-9 ? slider.max : slider.value;
    choose(withWeight(weights, trait, Number(end)));
  });
});
for (const button of document.querySelectorAll("[data-taste]")) {
  button.addEventListener("click", () => choose(JSON.parse(button.dataset.taste)));
}
show();

for (const part of document.querySelectorAll("[data-live]")) part.hidden = false;

const folded = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => { opened = [...folded()]; opened.forEach((part) => { part.open = true; }); });
addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
