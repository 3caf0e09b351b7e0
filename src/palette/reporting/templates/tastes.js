// What palette computes of a taste, in the browser: core/region.py, core/envelope.py, core/ideal.py.

const data = JSON.parse(document.getElementById("data").textContent);
const free = 1 - data.floor.reduce((sum, least) => sum + least, 0); // what the floors leave
const ideal = data.ideal && unpacked(data.ideal);

/** Shares of the region's corners, adding up to 1 → weights. */
function spread(shares) {
  return shares.map((share, trait) => data.floor[trait] + free * share);
}

/** Weights with one of them changed: the others share what is left as they did before. */
function withWeight(weights, trait, wanted) {
  const shares = weights.map((weight, place) => (weight - data.floor[place]) / free);
  const own = Math.min(Math.max((wanted - data.floor[trait]) / free, 0), 1);
  const others = shares.reduce((sum, share, place) => sum + (place === trait ? 0 : share), 0);
  const alike = 1 / (shares.length - 1);
  return spread(shares.map((share, place) => {
    if (place === trait) return shares.length > 1 ? own : 1;
    return (1 - own) * (others > 1e-12 ? share / others : alike);
  }));
}

/** What a plane says of weights: its values, less its cost. */
function worth(plane, weights) {
  return weights.reduce((sum, weight, trait) => sum + weight * plane[trait], -plane[weights.length]);
}

/** The member that users of a taste are routed to; of equals the first. */
function routed(weights) {
  const own = (member) => worth(member.routing, weights);
  return data.members.reduce((first, next) => (own(next) > own(first) ? next : first));
}

/** f*, by the base’s scored answers to questions that took part in no choice. */
function idealValue(weights) {
  const { sizes, rewards, logs } = ideal, d = weights.length;
  let start = 0, total = 0;
  for (const size of sizes) {
    const scores = new Float64Array(size);
    for (let row = 0; row < size; row++) {
      let score = logs[start + row];
      for (let trait = 0; trait < d; trait++) {
        score += weights[trait] * rewards[(start + row) * d + trait] / data.beta;
      }
      scores[row] = score;
    }
    const top = scores.reduce((a, b) => Math.max(a, b));
    total += top + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - top), 0));
    start += size;
  }
  return data.beta * total / sizes.length;
}

/** Who serves a taste, what it is worth, and what is lost; null where the page has no f*. */
function judged(weights) {
  const member = routed(weights), own = worth(member.judged, weights);
  const base = worth(data.members[0].judged, weights);
  if (!ideal) return { member, own, base, ideal: null };
  const most = idealValue(weights);
  const share = most > base ? (own - base) / (most - base) : null;
  const loss = most > 0 ? (most - own) / most : null;
  return { member, own, base, ideal: most, regret: most - own, loss, share };
}

/** Rewards as numbers, and the logarithm of each one's part of its question's answers. */
function unpacked({ sizes, rewards, counts, levels }) {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const many = new Uint32Array(bytes(counts)), logs = new Float64Array(many.length);
  let start = 0;
  for (const size of sizes) {
    const own = many.subarray(start, start + size), total = own.reduce((sum, count) => sum + count, 0);
    own.forEach((count, row) => { logs[start + row] = Math.log(count / total); });
    start += size;
  }
  return { sizes, logs, rewards: Float64Array.from(new Uint16Array(bytes(rewards)), (part) => part / levels) };
}
