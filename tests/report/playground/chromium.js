// SPDX-License-Identifier: Apache-2.0
// Opens a playground in Chromium, uses it, and checks what only a browser shows. Needs node,
// Chromium, and the packages puppeteer-core and axe-core in a folder of their own:
//
//   npm install --prefix=FOLDER puppeteer-core axe-core
//   NODE_PATH=FOLDER/node_modules CHROMIUM=/usr/bin/chromium \
//     node tests/report/playground/chromium.js PAGE.html PICTURES
//
// It ends with status 1 at the first thing that is wrong. PICTURES gets screenshots to look at;
// page.png is that of the documentation.

const fs = require("fs");
const path = require("path");
const puppeteer = require("puppeteer-core");

const WIDTHS = [360, 1200, 1600];
const OWN_TEXT = "The captain looked at the island.\n\n“Where are we?” asked the sailor.\n".repeat(6);

function check(isTrue, words) {
  if (!isTrue) throw new Error(words);
}

/** Notes, in a new page, when its first sampled character is drawn; runs before its scripts. */
function watchFirst() {
  const look = () => {
    if (document.querySelector(".column .text span:not(.given)") === null) {
      return requestAnimationFrame(look);
    }
    requestAnimationFrame(() => (window.firstMs = performance.now())); // after it is drawn
  };
  requestAnimationFrame(look);
}

/** Runs axe in an isolated world, since the page's policy forbids its script. */
async function violations(page) {
  const source = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
  const client = await page.createCDPSession();
  const { frameTree } = await client.send("Page.getFrameTree");
  const { executionContextId } = await client.send("Page.createIsolatedWorld", {
    frameId: frameTree.frame.id, worldName: "axe",
  });
  const run = async (expression) => {
    const contextId = executionContextId;
    return client.send("Runtime.evaluate", { expression, contextId, awaitPromise: true });
  };
  await run(`${source};1`);
  const found = await run(
    "axe.run({ resultTypes: ['violations'] }).then(({ violations }) => JSON.stringify(" +
      "violations.map(({ id, nodes }) => [id, ...nodes.slice(0, 3).map(({ html }) => html)])))",
  );
  return found.result.value;
}

async function main([file, pictures]) {
  fs.mkdirSync(pictures, { recursive: true });
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"],
    protocolTimeout: 600000,
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(300000);
  const messages = [];
  const requests = [];
  page.on("console", (message) => messages.push(message.text()));
  page.on("pageerror", (error) => messages.push(error.message));
  page.on("request", (request) => requests.push(request.url()));
  await page.setViewport({ width: 360, height: 640 });
  await page.evaluateOnNewDocument(watchFirst);
  await page.goto(`file://${path.resolve(file)}`);
  const isDone = () => [...document.querySelectorAll(".column .status")].every((x) => x.textContent);
  await page.waitForFunction(isDone);
  const firstMs = await page.evaluate(() => window.firstMs);
  console.log(`first character ${Math.round(firstMs)} ms after the navigation began`);
  console.log(await page.$eval(".column .status", (x) => x.textContent));

  // A tap and the keys: the character can be seen, and a panel of a third of the window.
  const isSeen = () => {
    const panel = document.querySelector(".column .predictions").getBoundingClientRect();
    const cell = document.querySelector(".column .chosen").getBoundingClientRect();
    const isLow = panel.height <= Math.max(180, 0.34 * innerHeight);
    return isLow && panel.bottom <= innerHeight + 1 && cell.top >= 0 && cell.bottom <= panel.top + 1;
  };
  const count = await page.$$eval(".column .text span", (cells) => cells.length);
  for (const index of [10, Math.floor(count / 2), count - 1]) {
    await page.evaluate((i) => document.querySelectorAll(".column .text span")[i].click(), index);
    check(await page.evaluate(isSeen), `character ${index} or its panel is out of sight`);
    if (index === 10) await page.screenshot({ path: `${pictures}/panel-360.png` });
  }
  await page.focus(".column .text");
  for (let i = 0; i < 60; i++) await page.keyboard.press("ArrowLeft");
  check(await page.evaluate(isSeen), "the keys lead out of sight");
  const size = await page.evaluate(() => {
    const sign = document.querySelector(".column .text [data-sign]");
    return sign === null ? 1 : sign.getBoundingClientRect().width;
  });
  check(size > 0, "a line's end has no width");

  // A branch, and the slider after it.
  const before = await page.$eval(".column .text", (x) => x.textContent);
  await page.click(".column .predictions li button");
  await page.waitForFunction(isDone);
  const after = await page.$eval(".column .text", (x) => x.textContent);
  check(before !== after, "a branch changes nothing");
  await page.$eval("#scale1", (x) => x.dispatchEvent(new Event("input")));
  await page.waitForFunction(isDone);
  const again = await page.$eval(".column .text", (x) => x.textContent);
  check(before === again, "the same settings give another text");

  await page.setViewport({ width: 960, height: 1600 }); // so that the panel stands below its text
  await page.$eval("#prompt", (x) => (x.value = "The captain "));
  await page.$eval("#length", (x) => (x.value = "200"));
  await page.click("#add_scale");
  await page.$eval("#scale1", (x) => x.dispatchEvent(new Event("input")));
  await page.waitForFunction(isDone);
  await page.evaluate(() => document.querySelectorAll(".column .text span")[30].click());
  const clip = await page.evaluate(() => {
    scrollTo(0, 0);
    document.activeElement.blur();
    const top = document.querySelector("#sampling").getBoundingClientRect().top - 16;
    const { bottom } = document.querySelector("#columns").getBoundingClientRect();
    return { x: 0, y: top, width: innerWidth, height: bottom - top + 16 };
  });
  await page.screenshot({ path: `${pictures}/page.png`, clip });
  await page.click("#remove_scale");
  await page.setViewport({ width: 360, height: 640 });

  await page.type("#own_text", OWN_TEXT);
  await page.click("#own_read");
  await page.waitForFunction(() => document.querySelector("#own_status").textContent !== "");
  console.log(await page.$eval("#own_status", (x) => x.textContent));
  await page.evaluate(() => document.querySelectorAll("#own_view span")[30].click());
  await page.click("#add_scale");
  await page.waitForFunction(isDone);

  const options = await page.$$eval("#own_colour option", (list) => list.map((x) => x.value));
  for (const option of [options[0], options[1], options.at(-1)]) {
    await page.select("#own_colour", option);
    for (const scheme of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      for (const width of WIDTHS) {
        await page.setViewport({ width, height: 900 });
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        check(over <= 0, `${over} px too wide at ${width}`);
        const name = `${pictures}/${option}-${scheme}-${width}.png`;
        await page.screenshot({ path: name, fullPage: true });
      }
      const found = await violations(page);
      check(found === "[]", `accessibility, ${scheme}: ${found}`);
    }
  }
  check(messages.length === 0, `console: ${messages}`);
  check(requests.length === 1, `requests: ${requests.slice(1)}`);

  const blocked = await page.evaluate(() =>
    fetch("https://example.invalid/").then(() => false, () => true),
  );
  check(blocked && messages.some((text) => text.includes("Content Security Policy")), "a request");
  const ran = await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.body.append(script);
    return window.ran === true;
  });
  check(!ran, "the policy lets another script run");
  await browser.close();
  console.log("all is well");
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
