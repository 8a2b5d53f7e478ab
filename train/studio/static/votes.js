// Comparisons of models, and of the one that was chosen the page of govor vote.
import { fill, h, name, prose } from "./dom.js";
import { get, post } from "./net.js";
import { t } from "./texts.js";
import { vote } from "./vote.js";  // stands beside the code of govor vote

export async function show(main, { id, signal }) {
  if (id) {
    const place = h("div");
    fill(main, h("p", {}, h("a", { href: "#votes" }, `← ${t("all_comparisons")}`)), h("h1", {}, name(id)), place);
    const path = `/studio/votes/${encodeURIComponent(id)}/`;
    await vote(place, (what, body) => body === undefined ? get(path + what, signal) : post(path + what, body, signal), signal);
    return;
  }
  const { comparisons } = await get("/studio/votes", signal);
  fill(main, h("h1", {}, t("nav_votes")), h("p", {}, t("votes_aid")),
    comparisons.length ? comparisons.map((one) => h("article.card", {}, h("h2", {}, h("a", { href: `#votes/${encodeURIComponent(one.id)}`, id: `vote-${one.id}` }, name(one.id))), h("p.aid", {}, name(one.path))))
      : h("p", {}, prose(t("no_comparisons"))));
}
