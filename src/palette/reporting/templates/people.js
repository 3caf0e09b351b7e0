// One public user at a time: found by a search, shown with all that is known and said.

const GROUPS = { seen: "seen user", unseen: "unseen user", no_history: "no history" };
const memberOf = Object.fromEntries(data.members.map((member) => [member.id, member]));
const nameOf = (member) => (member.weights ? `member ${member.number}` : "the base");
const LAYERS = { all: "all layers", upper: "the upper half of the layers", last: "the last layer" };

/** What the search looks through. */
function words(person) {
  return `${person.id} ${GROUPS[person.group]} ${nameOf(memberOf[person.route.member])} ${person.insight ?? ""}`.toLowerCase();
}

function list(people) {
  byId("user").replaceChildren(...people.map((person) =>
    element("option", { value: person.id }, `${person.id} · ${nameOf(memberOf[person.route.member])} · ${GROUPS[person.group]}`)));
  byId("found").textContent = `${people.length} of ${data.people.length} users`;
}

function search() {
  const wanted = byId("find").value.toLowerCase().split(/\s+/);
  const shown = byId("user").value;
  list(data.people.filter((person) => wanted.every((word) => words(person).includes(word))));
  byId("user").value = shown;
}

let met = null; // whom the page shows

/** Show a user; their answers are to the question that was chosen. */
function meet(person) {
  met = person;
  const member = memberOf[person.route.member];
  byId("person-name").textContent = person.id;
  byId("person-group").textContent = GROUPS[person.group];
  byId("person-insight").replaceChildren(...(person.insight
    ? ["The base’s insight from the history: ", element("q", {}, person.insight)]
    : ["There is no history, so there is no insight."]));
  byId("person-weights").replaceChildren(...data.traits.map((trait, place) => weighed(person, trait, place)));
  byId("person-route").replaceChildren(
    element("p", {}, chip(member), member.weights ? `${member.id}, ${aim(member)}` : aim(member)),
    element("p", {}, edited(person.route)),
    element("p", {}, lost(person.route)));
  byId("person-rows").textContent = person.rows > person.history.length
    ? `the first ${person.history.length} of ${person.rows} rows` : `${person.rows} row${person.rows === 1 ? "" : "s"}`;
  byId("person-history").replaceChildren(...person.history.map(([prompt, response, rating]) =>
    element("li", {}, element("b", {}, prompt), element("blockquote", {}, response),
      ...(rating === null ? [] : [element("small", {}, `rated ${decimals(rating, 2)}`)]))));
  answer(person);
}

/** One weight: its estimate within its interval, and the true one where it is known. */
function weighed(person, trait, place) {
  const [mean, low, high] = person.weights[place], judged = person.judged[place];
  const span = element("i", { class: "span", style: `left:${100 * low}%;width:${100 * (high - low)}%;background:${trait.color}` });
  const track = element("span", { class: "track", "aria-hidden": "true" }, span, element("i", { class: "dot", style: `left:${100 * mean}%` }));
  const truth = data.truth ? `, truly ${percent(judged, 0)}` : "";
  if (data.truth) track.append(element("i", { class: "truth", style: `left:${100 * judged}%` }));
  return element("li", {}, element("span", {}, trait.name), track,
    element("span", { class: "told" }, element("b", {}, percent(mean, 0)), ` (${percent(low, 0)} to ${percent(high, 0)})${truth}`));
}

function edited({ strength, layers, own }) {
  if (strength === 0) return "No edit on top: tuning found none that is surely better here.";
  return `With ${own ? "the user’s own edit" : "the edit of a group"}, strength ${strength}, on ${LAYERS[layers] ?? layers}.`;
}

function lost({ member, robust, regret, worst_regret: worst, uncertain, moved }) {
  const said = [`Loses ${decimals(regret)} at the estimated taste and ${decimals(worst)} at worst within its interval, on the questions that routes are chosen by.`];
  if (robust !== member) said.push(`Judged by that worst alone, ${nameOf(memberOf[robust])} would serve.`);
  if (uncertain) said.push("The history leaves the taste so open that this route is uncertain.");
  if (moved) said.push("Another member served before.");
  return said.join(" ");
}

/** Every method's answer to the chosen question, and what the method is worth to this user. */
function answer(person) {
  const place = Number(byId("question").value), room = person.ideal - person.base;
  const methods = Object.keys(data.methods).filter((method) => method in person.worth);
  byId("person-answers").replaceChildren(...methods.map((method) => {
    const worth = person.worth[method], share = room > 0 ? (worth - person.base) / room : null;
    const reach = bar(share ?? 0, "var(--accent)");
    reach.className = "reach";
    return element("li", { class: method.startsWith("portfolio") ? "answer ours" : "answer" },
      element("h4", {}, data.methods[method]), reach,
      element("small", {}, `J ${decimals(worth)}${share === null ? "" : ` · share ${percent(share, 0)}`}`),
      spoken(person, method, place));
  }));
}

/** An answer, or why there is none. */
function spoken(person, method, place) {
  const said = person.answers[method]?.[place];
  if (said !== undefined) return element("blockquote", {}, said || "(nothing)");
  const why = method === "ideal" ? "Nothing to ask: no policy exceeds this." : "Not shown: it is another user’s.";
  return element("p", { class: "note" }, why);
}

if (data.people.length) {
  const renew = () => {
    const person = data.people.find(({ id }) => id === byId("user").value);
    if (!person) return;
    meet(person);
    byId("met").textContent = `${person.id} is shown, served by ${nameOf(memberOf[person.route.member])}`;
  };
  list(data.people);
  byId("user").value = data.people[0].id;
  meet(data.people[0]);
  byId("user").addEventListener("change", renew);
  byId("question").addEventListener("change", () => answer(met));
  byId("find").addEventListener("input", search);
  byId("find").addEventListener("keydown", (event) => {
    const first = byId("user").options[0];
    if (event.key !== "Enter" || !first) return;
    byId("user").value = first.value;
    byId("user").focus();
    renew();
  });
  byId("try").addEventListener("click", () => {
    const shares = met.weights.map(([mean], trait) => Math.max((mean - data.floor[trait]) / free, 0));
    const sum = shares.reduce((total, share) => total + share, 0);
    choose(spread(shares.map((share) => share / sum)));
    byId("explore-title").focus();
  });
}
