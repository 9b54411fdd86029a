// What the server's errors mean, by their codes (contract/errors.py). English is the server's own language: there its words are shown as they are. Elsewhere
// these stand first, what happened and what to do, and the server's words follow as the detail.

import { useText, type Language } from ".";
import { ApiError } from "../api";

const JA: Record<string, readonly [what: string, todo: string]> = {
  E_SAM3D: ["サーバーで予期しないエラーが起きました。", "もう一度お試しください。"],
  E_INPUT: ["入力に問題があります。", ""],
  E_IMAGE: ["この画像は使えません。", "PNG、JPEG、WebP の画像を選んでください。"],
  E_MASK: ["このマスクは使えません。", "マスクを描き直してください。"],
  E_MASK_KIND: ["マスクの形式が分かりません。", "マスクを PNG で用意してください。"],
  E_MASK_SIZE: ["マスクと画像の大きさが違います。", "同じ画像から作ったマスクを使ってください。"],
  E_MASK_EMPTY: ["マスクで何も選ばれていません。", "対象をマスクで選んでください。"],
  E_MASK_FULL: ["マスクが画像全体を選んでいます。", "背景を除いたマスクにしてください。"],
  E_OPTION: ["設定の値が正しくありません。", "オプションを見直してください。"],
  E_PAIRING: ["画像とマスクの組み合わせを決められません。", "ファイル名を見直してください。"],
  E_SETUP: ["エンジンの準備ができていません。", "サーバーで python sam3d.py doctor を実行すると、足りないものが分かります。"],
  E_WORKER: ["処理プロセスで問題が起きました。", "もう一度お試しください。"],
  E_WORKER_START: ["処理プロセスを起動できません。", "サーバーで python sam3d.py doctor を実行してください。"],
  E_WORKER_CRASH: ["処理プロセスが途中で落ちました。", "もう一度お試しください。新しいプロセスで動きます。"],
  E_WORKER_HUNG: ["処理プロセスが応答しなくなりました。", "もう一度お試しください。新しいプロセスで動きます。"],
  E_WORKER_STATE: ["処理プロセスがその操作を受け付けられません。", "もう一度お試しください。"],
  E_PROTOCOL: ["プログラムの版が合っていません。", "サーバーで python install.py を実行してください。"],
  E_ENGINE: ["エンジンがエラーで止まりました。", "別の設定や画像でお試しください。"],
  E_MEMORY: ["メモリが足りません。", "品質を下げるか、対象を減らすか、小さい画像でお試しください。"],
  E_CANCELLED: ["キャンセルされました。", ""],
  E_OUTPUT: ["結果を書き込めません。", "サーバーのディスクの空きと権限を確認してください。"],
  E_SERVICE: ["サーバーが処理できませんでした。", "もう一度お試しください。"],
  E_UNREACHABLE: ["サーバーに届きません。", "アドレスと、サーバーが動いていることを確認してください。"],
  E_DENIED: ["サーバーに拒否されました。", "トークンを確認してください。"],
  E_NOT_FOUND: ["見つかりません。削除された可能性があります。", ""],
  E_CONFLICT: ["今の状態ではその操作はできません。", ""],
  E_TOO_LARGE: ["データが大きすぎます。", "小さくしてから送ってください。"],
  E_BUSY: ["サーバーが混み合っています。", "少し待ってからお試しください。"],
  E_STORAGE: ["サーバーのディスクがいっぱいです。", "古い結果を消すか、空きを増やしてください。"],
  E_TIME_LIMIT: ["時間がかかりすぎました。", "品質を下げるか、サーバーの制限時間を延ばしてください。"],
};
const TABLES: Partial<Record<Language, typeof JA>> = { ja: JA };

export interface Told {
  text: string;
  hint: string;
  detail: string; // in the server's language
}

/** How the page tells an error: the server's, or one of its own, whose words are in the page's language already. */
export function useProblem(): (problem: unknown) => Told {
  const { say, language } = useText();
  return (problem) => {
    if (problem instanceof ApiError && problem.status === 0) return { text: say("error.offline"), hint: "", detail: "" };
    const { code = "", message = String(problem), hint = "" } = (problem ?? {}) as { code?: string; message?: string; hint?: string };
    const table = TABLES[language];
    if (!table || !code.startsWith("E_")) return { text: message, hint, detail: "" };
    const [text, todo] = table[code] ?? table.E_SAM3D!;
    return { text, hint: todo, detail: `${message} ${hint}`.trim() };
  };
}
