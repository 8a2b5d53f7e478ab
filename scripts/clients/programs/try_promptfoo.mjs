// promptfoo: two tuned models beside each other in one evaluation, by chat and by responses.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { MODEL, QUESTION, URL_, attempt } from './attempt.mjs'

const folder = mkdtempSync(join(tmpdir(), 'promptfoo-'))
const program = join(process.env.GOVOR_CLIENT, 'node_modules/.bin/promptfoo')
const environment = {
  ...process.env, PROMPTFOO_CONFIG_DIR: folder, PROMPTFOO_DISABLE_TELEMETRY: '1', PROMPTFOO_DISABLE_UPDATE: '1',
  PROMPTFOO_DISABLE_REMOTE_GENERATION: '1',
  PROMPTFOO_RETRY_5XX: 'true', // `transformers serve` holds one model: while the other is loaded the answer is 503
}

/** The first model's answer in an evaluation of both, each of which has to say something. */
function evaluated(kind) {
  const config = { apiBaseUrl: URL_, temperature: 0 }
  const providers = [MODEL, process.env.GOVOR_OTHER_MODEL].map((model) => ({ id: `openai:${kind}:${model}`, config }))
  const tests = [{ vars: { question: QUESTION }, assert: [{ type: 'javascript', value: 'output.length > 0' }] }]
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ prompts: ['{{question}}'], providers, tests }))
  const words = ['eval', '-c', 'config.json', '-o', 'out.json', '--no-cache', '-j', '1', '--no-progress-bar', '--no-table']
  try {
    execFileSync(program, words, { cwd: folder, env: environment, stdio: 'pipe' })
  } catch (error) {
    if (error.status !== 100) throw new Error(`${error.stderr} ${error.stdout}`) // 100: an assertion failed
  }
  const results = JSON.parse(readFileSync(join(folder, 'out.json'))).results.results
  for (const result of results) if (!result.success) throw new Error(result.error)
  return results.find((result) => result.provider.id.endsWith(MODEL)).response.output
}

await attempt({ chat: () => evaluated('chat'), responses: () => evaluated('responses') })
