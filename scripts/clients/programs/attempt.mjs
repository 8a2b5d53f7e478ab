// What the Node programs share: what they are told, and how they report each operation; see attempt.py.

export const URL_ = process.env.OPENAI_BASE_URL
export const KEY = process.env.OPENAI_API_KEY
export const MODEL = process.env.GOVOR_MODEL
export const BASE = process.env.GOVOR_BASE
export const ROWS = process.env.GOVOR_ROWS
export const QUESTION = process.env.GOVOR_QUESTION

/** The AI SDK's answer by completions, which has to be that of a plain request with the prompt as the SDK writes it. */
export async function asPlainCompletion(answer) {
  const body = { model: MODEL, prompt: `user:\n${QUESTION}\n\nassistant:\n`, stop: ['\nuser:'], temperature: 0 }
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' }
  const plain = await fetch(`${URL_}/completions`, { method: 'POST', headers, body: JSON.stringify(body) })
  const expected = (await plain.json()).choices[0].text
  if (answer.text !== expected) throw new Error(`${answer.text} instead of ${expected}`)
  return { as_plain: answer.text }
}

/** Try each operation to its end, and print a line of JSON for it. */
export async function attempt(operations) {
  for (const [operation, work] of Object.entries(operations)) {
    const report = { operation }
    try {
      report.said = await work()
    } catch (error) {
      report.error = `${error.name}: ${error.message} ${error.responseBody ?? ''} ${error.cause?.message ?? ''}`.trim()
    }
    console.log('@@' + JSON.stringify(report))
  }
}
